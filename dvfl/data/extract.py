"""Archives to files: zip, tar and tar.gz with the standard library, rar with rarfile and libarchive or unar.

Every file is written by us, under a name that we have checked, into a folder beside the clips, and moved among them
once the archive has been read to its end and its checksums have agreed. So nothing lands elsewhere, no link is ever
made, and a killed extraction leaves nothing among the clips.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import stat
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

import rarfile

from dvfl.data import unarchiver
from dvfl.data.errors import DataError
from dvfl.files import OutputError, explain
from dvfl.progress import Progress

CHUNK = 1 << 20
MEGABYTE = 1_000_000
MOST_RATIO = 50  # videos hardly shrink, lists do by a factor of ten
ALWAYS_ALLOWED = 1 << 20  # bytes, whatever the ratio
MOST_MEMBERS = 2_000_000
ARCHIVES = (".rar", ".zip", ".tar", ".gz", ".tgz")

Place = Callable[[PurePosixPath], PurePosixPath | None]  # where a member belongs; None: it is left out


class ArchiveError(DataError):
    """An archive that cannot or must not be extracted; the message says why, and what to do."""


@dataclass(frozen=True)
class Member:
    name: str
    kind: Literal["file", "folder", "other"]
    chunks: Callable[[], Iterator[bytes]]


def extract(
    archive: Sequence[Path], scratch: Path, target: Path, place: Place, nested: bool = False, joined: bool = False
) -> int:
    """Extracts an archive, whole or (`joined`) in parts that join to one, to target/place(name); the number of files.

    `scratch` is a folder of our own on the target's disk. With `nested`, archives in the archive are extracted as
    well. Raises ArchiveError, and OutputError where the disk is full.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    size = sum(file.stat().st_size for file in archive)
    with Progress(f"Extracting {archive[0].name}, MB", round(size * (2 if nested else 1) / MEGABYTE)) as progress:
        budget = _Budget(archive[0], size, scratch, progress)
        inner = scratch / "archives" if nested else None
        files = _unpack(archive, scratch / "files", place, budget, inner, joined)
    for file in files:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(scratch / "files" / file, target / file)
    shutil.rmtree(scratch, ignore_errors=True)
    return len(files)


def _unpack(
    archive: Sequence[Path], folder: Path, place: Place, budget: _Budget, inner: Path | None, joined: bool = False
) -> set[PurePosixPath]:
    """Writes the members that have a place into a folder; their paths there."""
    untouched = budget.state()
    try:
        with _reading(archive, joined) as members:
            written, found = _write_members(members, archive[0], folder, place, budget, inner)
    except _BeyondLibarchive as error:
        budget.back_to(untouched)  # what is written is written again
        with _reading_by_unar(archive[0], error) as members:
            written, found = _write_members(members, archive[0], folder, place, budget, inner)
    for file in found:
        written |= _unpack([file], folder, place, budget, None)
        budget.spare(file.stat().st_size)
        file.unlink()
    return written


def _write_members(
    members: Iterator[Member], archive: Path, folder: Path, place: Place, budget: _Budget, inner: Path | None
) -> tuple[set[PurePosixPath], list[Path]]:
    """Paths in the folder of the members that have a place, and the archives found, which are written to `inner`."""
    written: set[PurePosixPath] = set()
    found: list[Path] = []
    for number, member in enumerate(members):
        path = _safe(member, archive)
        budget.member()
        if member.kind != "file":
            continue
        if inner is not None and path.suffix.lower() in ARCHIVES:
            found.append(inner / f"{number}{path.suffix.lower()}")
            _write(member, found[-1], budget)
        elif (relative := place(path)) is not None:
            _write(member, folder / relative, budget)
            written.add(relative)
    return written, found


def _write(member: Member, path: Path, budget: _Budget) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for chunk in member.chunks():
                budget.take(len(chunk))
                file.write(chunk)
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile) or error.errno is None:
            raise
        raise OutputError(explain(error, path)) from error


def _safe(member: Member, archive: Path) -> PurePosixPath:
    """The member's path, which stays in the folder that it is written to."""
    name = member.name.replace("\\", "/")
    parts = name.split("/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in parts or "\0" in name:
        raise ArchiveError(
            f"{archive} holds {member.name!r}, which would land outside its folder: nothing of it was extracted; this "
            f"is not the owner's file, so remove it and fetch it from another address"
        )
    if member.kind == "other":
        raise ArchiveError(
            f"{archive} holds {member.name!r}, a link or a device, which no data set needs: nothing of it was "
            f"extracted; this is not the owner's file, so remove it and fetch it from another address"
        )
    return PurePosixPath(*(part for part in parts if part not in ("", ".")))


class _Budget:
    """What an archive may unpack to: no bomb, and no more than the disk holds."""

    def __init__(self, archive: Path, size: int, folder: Path, progress: Progress):
        self.archive, self.progress = archive, progress
        self.allowed = self.left = max(ALWAYS_ALLOWED, MOST_RATIO * size)
        self.members = MOST_MEMBERS
        folder.mkdir(parents=True, exist_ok=True)
        self.disk = shutil.disk_usage(folder).free

    def take(self, size: int) -> None:
        self.left -= size
        self.disk -= size
        # Videos hardly shrink, so what the archive unpacks to is about as much as it has.
        self.progress.update(min(self.progress.total, round((self.allowed - self.left) / MEGABYTE)))
        if self.left < 0:
            raise ArchiveError(
                f"{self.archive} unpacks to more than {MOST_RATIO} times its size, as no videos do: nothing of it was "
                f"extracted; this is not the owner's file, so remove it and fetch it from another address"
            )
        if self.disk < 0:
            raise ArchiveError(
                f"{self.archive} unpacks to more than the disk has free: free some space or let source.folder name "
                f"another disk, then run the same command again"
            )

    def spare(self, size: int) -> None:
        """An inner archive is gone again."""
        self.disk += size

    def state(self) -> tuple[int, int, int]:
        return self.left, self.disk, self.members

    def back_to(self, state: tuple[int, int, int]) -> None:
        self.left, self.disk, self.members = state

    def member(self) -> None:
        self.members -= 1
        if self.members < 0:
            raise ArchiveError(f"{self.archive} holds more than {MOST_MEMBERS:,} files, as no data set does")


# ---------------------------------------------------------------------------------------------------------- readers


@contextmanager
def _reading(archive: Sequence[Path], joined: bool) -> Iterator[Iterator[Member]]:
    """Members of an archive of whatever kind; what its reader says of a bad one becomes an ArchiveError."""
    first = archive[0]
    with first.open("rb") as file:
        beginning = file.read(8)
    try:
        if beginning.startswith(b"Rar!"):
            yield _rar(first)
        elif beginning.startswith(b"PK") and not joined:
            yield _zip(first)
        else:
            yield _tar(archive)
    except rarfile.RarCannotExec as error:  # an old one whose very comment is packed
        raise _BeyondLibarchive(first, error) from error
    except _UNREADABLE as error:
        raise _damaged(archive, error, joined) from error
    except Exception as error:
        # libarchive's own error, by name: it is imported only where there is a rar.
        if type(error).__module__.partition(".")[0] != "libarchive":
            raise
        reason = str(getattr(error, "msg", error))
        if not re.search("unsupported|not supported|unavailable|filter", reason, re.IGNORECASE):
            raise _damaged(archive, reason, joined) from error
        raise _BeyondLibarchive(first, reason) from error


@contextmanager
def _reading_by_unar(path: Path, refused: _BeyondLibarchive) -> Iterator[Iterator[Member]]:
    """Members of a rar that libarchive has refused. Raises that refusal where this machine has no unar."""
    unar = unarchiver.find_unar()
    if unar is None:
        raise refused
    try:
        infos = _headers(path)
        with unarchiver.unpacked(unar, path) as stream:
            yield _rar_by_unar(infos, stream)
    except rarfile.Error as error:
        raise ArchiveError(
            f"{path}: neither libarchive ({refused.reason}) nor unar ({error}) can read it; nothing of it was "
            f"extracted: remove it and run the same command again; {_UNRAR}"
        ) from error


_UNREADABLE = (zipfile.BadZipFile, tarfile.TarError, rarfile.Error, gzip.BadGzipFile, zlib.error, EOFError)
_UNRAR = "if a new copy fails as well, extract it with unrar and give the folder as `root`"


class _BeyondLibarchive(ArchiveError):
    """A rar that is whole, as far as we can tell, but packed in a way that is not known here."""

    def __init__(self, path: Path, reason: object):
        super().__init__(
            f"{path}: this machine's libarchive cannot read it ({reason}): install unar, which can "
            f"({unarchiver.INSTALL}), and run the same command again, or extract the file with unrar and give the "
            f"folder as `root`"
        )
        self.reason = reason


def _damaged(archive: Sequence[Path], reason: object, joined: bool) -> ArchiveError:
    if joined:
        parts = f"{archive[0]} … {archive[-1].name}" if len(archive) > 1 else f"{archive[0]} alone"
        return ArchiveError(
            f"{parts}: a part is missing, or one is not whole ({reason}); nothing of them was extracted: compare their "
            f"names and sizes with the owner's, put what is missing beside them and run the same command again"
        )
    again = (
        f"{archive[0]}: it is damaged or not whole ({reason}); nothing of it was extracted: remove it and run the same "
        f"command again"
    )
    if archive[0].suffix.lower() == ".rar":  # old ways to compress are not known to libarchive, which says the same
        again += f"; {_UNRAR}"
    return ArchiveError(again)


def _zip(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.flag_bits & 1:
                raise _protected(path)
            mode = info.external_attr >> 16
            plain = stat.S_IFMT(mode) in (0, stat.S_IFREG)
            kind = "folder" if info.is_dir() else "file" if plain else "other"
            # zipfile itself would cut a name at a zero byte.
            yield Member(info.orig_filename, kind, lambda info=info: _chunks(archive.open(info)))


def _tar(parts: Sequence[Path]) -> Iterator[Member]:
    with io.BufferedReader(_Joined(parts), CHUNK) as joined:
        packed = joined.peek(2)[:2] == b"\x1f\x8b"
        stream: Any = gzip.GzipFile(fileobj=joined) if packed else joined
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for info in archive:
                kind = "file" if info.isreg() else "folder" if info.isdir() else "other"
                yield Member(info.name, kind, lambda info=info: _chunks(archive.extractfile(info)))
        while stream.read(CHUNK):  # gzip's checksum stands at the end
            pass


def _chunks(file: Any) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK):
            yield chunk


class _Joined(io.RawIOBase):
    """Files as one stream, in order; a part that is itself zipped counts as what it holds."""

    def __init__(self, parts: Sequence[Path]):
        self.chunks = (chunk for part in parts for chunk in self._of(part))
        self.rest = b""

    @staticmethod
    def _of(part: Path) -> Iterator[bytes]:
        with part.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04" and zipfile.is_zipfile(file)
        if not zipped:
            yield from _chunks(part.open("rb"))
            return
        with zipfile.ZipFile(part) as archive:
            for name in sorted(archive.namelist()):
                yield from _chunks(archive.open(name))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.rest = self.rest or next(self.chunks, b"")
        size = min(len(buffer), len(self.rest))
        buffer[:size], self.rest = self.rest[:size], self.rest[size:]
        return size


def _rar(path: Path) -> Iterator[Member]:
    """rarfile reads the headers, libarchive the contents.

    libarchive alone would not do: it hands out stored files whose checksum is wrong, and encrypted ones as they are,
    and stops without a word where headers end early (3.6). rarfile alone would start a program for each file.
    """
    libarchive = require_libarchive(path)
    infos = _headers(path)
    with libarchive.file_reader(str(path), block_size=CHUNK) as archive:
        entries = iter(archive)
        for info in infos:
            entry = next(entries, None)
            if entry is None:
                raise rarfile.BadRarFile(f"{info.filename} cannot be read")
            yield _member(info, lambda info=info, entry=entry: _checked(info, entry.get_blocks(CHUNK)))


def _rar_by_unar(infos: Sequence[rarfile.RarInfo], stream: IO[bytes]) -> Iterator[Member]:
    """rarfile reads the headers, unar the contents: a stream of all, so that what nobody wants is read over."""
    for info in infos:
        if info.is_file() and info.CRC is None:  # a RAR 5 may have another checksum, which nobody would look at here
            raise rarfile.BadRarFile(f"{info.filename} has no CRC")
        chunks = _checked(info, _up_to(info.file_size, stream))
        yield _member(info, lambda chunks=chunks: chunks)
        for _ in chunks if info.is_file() else ():
            pass
    if stream.read(1):
        raise rarfile.BadRarFile("it holds more than its headers say")


def _headers(path: Path) -> list[rarfile.RarInfo]:
    with rarfile.RarFile(path, errors="strict") as headers:
        if headers.needs_password():
            raise _protected(path)
        return headers.infolist()


def _member(info: rarfile.RarInfo, chunks: Callable[[], Iterator[bytes]]) -> Member:
    return Member(info.filename, "folder" if info.is_dir() else "file" if info.is_file() else "other", chunks)


def _up_to(size: int, stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(min(CHUNK, size)):
        size -= len(chunk)
        yield chunk


def _checked(info: rarfile.RarInfo, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks, and BadRarFile at their end where they are not what the header says."""
    size = checksum = 0
    for chunk in chunks:
        size, checksum = size + len(chunk), zlib.crc32(chunk, checksum)
        yield chunk
    if size != info.file_size or (info.CRC is not None and checksum != info.CRC):
        raise rarfile.BadRarFile(f"{info.filename} does not have its checksum")


def require_libarchive(path: Path | str) -> Any:
    """The reader of rar archives. Raises ArchiveError where this machine has none."""
    own = Path(sys.prefix) / "lib" / ("libarchive.dylib" if sys.platform == "darwin" else "libarchive.so")
    if own.exists():  # a conda environment's, which the system's search does not find
        os.environ.setdefault("LIBARCHIVE", str(own))
    try:
        import libarchive
    except (ImportError, OSError, AttributeError, TypeError) as error:  # ctypes says it in many ways
        raise ArchiveError(
            f"{path} is a rar, which libarchive reads, and this machine has none: install it (Debian and Ubuntu: "
            f"apt-get install libarchive13; Fedora: dnf install libarchive; macOS: brew install libarchive; conda: "
            f"conda install -c conda-forge libarchive), or extract the file yourself and give the folder as `root`"
        ) from error
    return libarchive


def _protected(path: Path) -> ArchiveError:
    return ArchiveError(
        f"{path} is protected by a password, as none of the owners' files is: remove it and fetch it from another "
        f"address, or extract it yourself and give the folder as `root`"
    )
