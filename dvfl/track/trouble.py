"""What is done, and said, about an MLflow that is down or slow: the work goes on, and one line tells of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import Thread

from dvfl.config import TrackingConfig
from dvfl.redaction import redact

PATIENCE_FOR_ALL = 60.0  # seconds that a command waits for MLflow in all, however many runs there are


def attempt(work: Callable[[], None]) -> str | None:
    """Does some work with MLflow, and waits for it PATIENCE_FOR_ALL seconds; what went wrong in one line, or None.

    In a thread, since not everything that MLflow does has a timeout, and what has one may be done many times. What was
    given up goes on beside the work that follows, as long as that takes.
    """
    trouble: list[str] = []

    def work_or_tell() -> None:
        try:
            work()
        except Exception as error:  # whatever is wrong with MLflow must not stop the work
            trouble.append(describe(error))

    thread = Thread(target=work_or_tell, daemon=True)
    thread.start()
    thread.join(PATIENCE_FOR_ALL)
    if thread.is_alive():
        return f"not done within {PATIENCE_FOR_ALL:g} s"
    return trouble[0] if trouble else None


def describe(error: Exception) -> str:
    """One line about an error, without credentials."""
    text = " ".join(redact(str(error)).split())
    return f"{type(error).__name__}: {text[:200]}{'…' if len(text) > 200 else ''}"


def warn(message: str, tracking: TrackingConfig) -> None:
    print(f"dvfl: tracking at {redact(tracking.uri)}: {message}", file=sys.stderr, flush=True)
