"""One writer for a run directory at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dvfl.errors import UserError


class LeaseTaken(UserError):
    """Another process writes this run; the message says which."""


@contextmanager
def lease(directory: Path, wait_seconds: float = 0) -> Iterator[None]:
    """Holds the directory for this process; the system lets go of it even when the process is killed.

    Raises LeaseTaken if another process still holds it after `wait_seconds`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    holder = directory / "lease.holder"
    lock = FileLock(directory / "lease.lock")
    try:
        lock.acquire(timeout=wait_seconds)
    except Timeout:
        who = holder.read_text().strip() if holder.exists() else "another process"
        raise LeaseTaken(
            f"{directory}: {who} is already working on this run; wait for it to end, or end it, and run again"
        ) from None
    try:
        holder.write_text(f"process {os.getpid()} on {os.uname().nodename}\n")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
