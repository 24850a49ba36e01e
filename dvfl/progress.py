"""Progress of long work: a bar with time left on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

Item = TypeVar("Item")

LOG_EVERY_SECONDS = 30


class Progress:
    """Shows on stderr how far a piece of work is.

    On a terminal: a bar with time left that vanishes at the end. Elsewhere a line every half minute, since a bar would
    fill a log with control characters, and one at the end. Nothing if `silent`, as where several processes do it.
    """

    def __init__(self, label: str, total: int, silent: bool = False):
        self.label, self.total, self.silent = label, total, silent
        self.done = 0
        self.started_at: int | None = None  # where a resumed piece of work began
        self.bar: RichProgress | None = None

    def __enter__(self) -> Progress:
        self.begin = self.last_line = time.monotonic()
        if sys.stderr.isatty() and not self.silent:
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self.bar = RichProgress(*columns, console=Console(file=sys.stderr), transient=True)
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=self.total)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.stop()
        if kind is None:
            self._line(f"{self.done} of {self.total} done in {time.monotonic() - self.begin:.1f} s")

    def update(self, done: int, text: str = "") -> None:
        """`done` pieces are finished; `text` says how they went. `total` may have changed since."""
        if self.started_at is None:
            self.started_at = done - 1
        self.done = done
        if self.bar is not None:
            self.bar.update(self.task, total=self.total, completed=done, description=f"{self.label} {text}".strip())
            return
        now = time.monotonic()
        if now - self.last_line >= LOG_EVERY_SECONDS and done < self.total:
            self.last_line = now
            left = (now - self.begin) / max(1, done - self.started_at) * (self.total - done)
            self._line(f"{done} of {self.total}, about {_duration(left)} left{', ' + text if text else ''}")

    def track(self, iterable: Iterable[Item]) -> Iterator[Item]:
        """The items, counted as each is finished."""
        for number, item in enumerate(iterable, start=1):
            yield item
            self.update(number)

    def _line(self, text: str) -> None:
        if not self.silent:
            print(f"{self.label}: {text}", file=sys.stderr, flush=True)


def track(iterable: Iterable[Item], total: int, label: str) -> Iterator[Item]:
    """The items of `iterable`, `total` of them, while stderr shows how far the loop is."""
    with Progress(label, total) as progress:
        yield from progress.track(iterable)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
