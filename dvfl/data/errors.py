"""What can be wrong with data, said in one line: what, where, what to do."""

from __future__ import annotations

from pathlib import Path

from dvfl.errors import UserError


class DataError(UserError, ValueError):
    """The data do not allow what was asked."""


class UnreadableClip(DataError):
    """A file that cannot be decoded as the clip it should be."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
