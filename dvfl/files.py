"""Writing files so that nobody ever sees half of one, and saying clearly why one could not be written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dvfl.errors import UserError


class OutputError(UserError, OSError):
    """A file could not be written; the message says which, why, and what to do."""


class MissingInput(UserError, FileNotFoundError):
    """A file that an earlier step makes is not there; the message says which, and how to make it."""


class NotMadeYet(MissingInput):
    """A file that the pipeline makes; the message is the command that makes it, with the config files in `configs`."""

    def __init__(self, path: Path):
        super().__init__(str(path))
        self.path = path
        self.configs: tuple[Path, ...] = ()

    def __str__(self) -> str:
        words = [
            "dvfl",
            "results",
            *(word for file in self.configs for word in ("--config", str(file))),
            str(self.path),
        ]
        return f"{self.path}: not there yet; make it with `{shlex.join(words)}`"


def required(path: str | Path) -> Path:
    """The path of a file that the pipeline makes and that is there. Raises NotMadeYet."""
    path = Path(path)
    if not path.is_file():
        raise NotMadeYet(path)
    return path


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Path to write to in the block; it becomes `path` at the end, or nothing changes.

    Raises OutputError where the disk is full or the folder cannot be written.
    """
    path = Path(path)
    partial: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays, since writers choose the format by it.
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
        partial = Path(name)
        os.fchmod(handle, 0o644)
        os.close(handle)
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise OutputError(explain(error, path)) from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=2, sort_keys=False, default=str) + "\n")


def read_json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text())


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "your disk quota is used up; free some space",
    errno.EFBIG: "the file would be larger than this system allows; raise its limit (ulimit -f)",
    errno.EACCES: "the folder may not be written; change its permissions",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.ENOTDIR: "a part of its path is a file, not a folder; move that file away",
    errno.EEXIST: "a part of its path is a file, not a folder, or a link that leads nowhere; move that file away",
}


def explain(error: OSError, path: str | Path | None = None) -> str:
    """What the system's refusal means, and what to do; `path` where it was to be written, else what the error names."""
    what = REMEDIES.get(error.errno or 0, error.strerror or str(error))
    place = path or error.filename or Path.cwd()
    verb = "write"
    if path is None and error.errno == errno.EACCES and not _may_be_read(Path(place)):
        verb, what = "read", "its permissions, or those of a folder that it lies in, forbid it; change them"
    return f"cannot {verb} {place}: {what}, then run the same command again: what is finished is kept"


def _may_be_read(path: Path) -> bool:
    """Whether the system lets us read a path, or look at the last folder on the way to it that can be seen at all."""
    seen = next(each for each in (path.absolute(), *path.absolute().parents) if os.path.exists(each))
    return os.access(seen, os.R_OK | os.X_OK if os.path.isdir(seen) else os.R_OK)


def in_words(error: Exception) -> str:
    """What a user is told of an error that is theirs to mend."""
    return str(error) if isinstance(error, UserError) else explain(error)
