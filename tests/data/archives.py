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


def rar_of(
    files: Files,
    links: Mapping[str, str] | None = None,
    encrypted: bool = False,
    method: int = 0x30,
    packed: Files | None = None,
) -> bytes:
    """A stored RAR 4: headers with their checksums, and the files as they are, whatever method they claim.

    Where a file's bytes are in `packed`, in the form of that method, they stand for it.
    """
    blocks = [b"Rar!\x1a\x07\x00", _block(0x73, 0, bytes(6))]
    regular, link = 0o100644, 0o120777
    members = [(name, content, regular) for name, content in files.items()]
    members += [(name, target.encode(), link) for name, target in (links or {}).items()]
    for name, content, mode in members:
        encoded = name.encode()
        body = (packed or {}).get(name, content)
        unix, version = 3, 29 if packed else 20
        sizes = struct.pack("<II", len(body), len(content))
        about = struct.pack("<BIIBBHI", unix, zlib.crc32(content), 0, version, method, len(encoded), mode)
        blocks += [_block(0x74, 0x8000 | (0x04 if encrypted else 0), sizes + about + encoded), body]
    return b"".join([*blocks, _block(0x7B, 0x4000, b"")])


def _block(kind: int, flags: int, rest: bytes) -> bytes:
    head = struct.pack("<BHH", kind, flags, 7 + len(rest)) + rest
    return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head


def rar5_of(files: Files, links: Mapping[str, str] | None = None, encrypted: bool = False, method: int = 0) -> bytes:
    """A stored RAR 5: the same idea with numbers of seven bits a byte, and CRC-32 throughout."""
    blocks = [b"Rar!\x1a\x07\x01\x00"]
    if encrypted:
        blocks.append(_block5(4, b"", [0, 0, 15], bytes(16)))  # from here on headers are encrypted
    blocks.append(_block5(1, b"", [0]))
    has_checksum, unix, link = 0x04, 1, 0o120777
    for name, content in [*files.items(), *dict.fromkeys(links or {}, b"").items()]:
        encoded, target = name.encode(), (links or {}).get(name, "").encode()
        mode = link if target else 0o100644
        record = _numbers(5, 1, 0, len(target)) + target if target else b""  # 5: it leads elsewhere, 1: a symbolic link
        extra = _numbers(len(record)) + record if record else b""
        about = struct.pack("<I", zlib.crc32(content)) + _numbers(method << 7, unix, len(encoded)) + encoded
        blocks += [_block5(2, extra, [has_checksum, len(content), mode], about, len(content)), content]
    return b"".join([*blocks, _block5(5, b"", [0])])


def _block5(kind: int, extra: bytes, numbers: list[int], rest: bytes = b"", data: int | None = None) -> bytes:
    flags = (0x01 if extra else 0) | (0 if data is None else 0x02)
    sizes = [*([len(extra)] if extra else []), *([] if data is None else [data])]
    body = _numbers(kind, flags, *sizes, *numbers) + rest + extra
    sized = _numbers(len(body)) + body
    return struct.pack("<I", zlib.crc32(sized)) + sized


def _numbers(*values: int) -> bytes:
    """Each as groups of seven bits, the lowest first; all but the last have the eighth bit set."""
    written = bytearray()
    for value in values:
        while value > 0x7F:
            written.append(0x80 | value & 0x7F)
            value >>= 7
        written.append(value)
    return bytes(written)
