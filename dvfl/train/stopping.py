"""Signals as a question: what a scheduler sends before it takes a node back or a time limit is near, and Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from dvfl.errors import Stopped


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """In the block SIGTERM and a first Ctrl-C end nothing: the function says whether one has come.

    Python's KeyboardInterrupt comes at any place, and PyTorch's compiled code may lose it or crash by it; so the block
    raises Stopped where it is safe, which leaves it as KeyboardInterrupt after Ctrl-C. A second Ctrl-C raises at once.
    Elsewhere than in the main thread, where Python handles no signals, the function never says that one has come.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: set[int] = set()

    def remember(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in came:
            raise KeyboardInterrupt
        came.add(number)

    # Who ignores Ctrl-C, as what a shell starts in the background does, goes on ignoring it.
    numbers = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield lambda: bool(came)
    except Stopped:
        if signal.SIGINT not in came:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signal.SIGINT in came:  # also where the block had nothing left to stop
        raise KeyboardInterrupt
