"""SIGTERM as a question: what a scheduler sends before it takes a node back, or a time limit is near."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """In the block SIGTERM ends nothing: the function says whether it has come.

    Elsewhere than in the main thread, where Python handles no signals, it never says so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
