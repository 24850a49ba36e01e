"""One writer for a run directory at a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dvfl.errors import UserError


class LeaseTaken(UserError):
    """Another process writes this run; the message says which."""


@contextmanager
def lease(directory: Path, wait: bool = False) -> Iterator[None]:
    """Holds the directory for this process; the system lets go of it even when the process is killed.

    Raises LeaseTaken if another process holds it, unless told to wait for that one to end.
    """
    directory.mkdir(parents=True, exist_ok=True)
    holder = directory / "lease.holder"
    lock = FileLock(directory / "lease.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = holder.read_text().strip() if holder.exists() else "another process"
        if not wait:
            raise LeaseTaken(
                f"{directory}: {who} is already working on this run; wait for it to end, or end it, and run again"
            ) from None
        print(f"{directory}: waiting for {who}, which works on this run", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        holder.write_text(f"process {os.getpid()} on {os.uname().nodename}\n")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
