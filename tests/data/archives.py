"""Archives written in memory, good and evil ones."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping

Files = Mapping[str, bytes]


def zip_of(files: Files, compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tgz_of(files: Files, *others: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in others:
            archive.addfile(info)
    return gzip.compress(stream.getvalue(), mtime=0)


def rar_of(files: Files, links: Mapping[str, str] | None = None, encrypted: bool = False) -> bytes:
    """A stored RAR 4: headers with their checksums, and the files as they are."""
    blocks = [b"Rar!\x1a\x07\x00", _block(0x73, 0, bytes(6))]
    regular, link = 0o100644, 0o120777
    members = [(name, content, regular) for name, content in files.items()]
    members += [(name, target.encode(), link) for name, target in (links or {}).items()]
    for name, content, mode in members:
        encoded = name.encode()
        unix, version, stored = 3, 20, 0x30
        sizes = struct.pack("<II", len(content), len(content))
        about = struct.pack("<BIIBBHI", unix, zlib.crc32(content), 0, version, stored, len(encoded), mode)
        blocks += [_block(0x74, 0x8000 | (0x04 if encrypted else 0), sizes + about + encoded), content]
    return b"".join([*blocks, _block(0x7B, 0x4000, b"")])


def _block(kind: int, flags: int, rest: bytes) -> bytes:
    head = struct.pack("<BHH", kind, flags, 7 + len(rest)) + rest
    return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head
