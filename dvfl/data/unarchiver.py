"""`unar`, the program of The Unarchiver, reads rar archives that libarchive cannot: solid ones, and those with filters.

It writes no file here, and so needs no trust: what the files hold comes as one stream, in the archive's order. Where
one ends, and whether it is right, its header says, for unar itself does not: giving a stream, it ends well even where
a checksum is wrong (1.10).
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

INSTALL = "Debian and Ubuntu: apt-get install unar; macOS: brew install unar"


def find_unar() -> str | None:
    """The program's path; None where this machine has none."""
    return shutil.which("unar")


@contextmanager
def unpacked(unar: str, archive: Path) -> Iterator[IO[bytes]]:
    """What all files of an archive hold, one after the other. The program ends with the block, however that ends."""
    command = [unar, "-quiet", "-no-recursion", "-output-directory", "-", str(archive.absolute())]
    # Without a terminal, so that it never asks for anything; in a session of its own, so that Ctrl-C is ours to handle.
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            yield process.stdout
        finally:
            process.kill()
