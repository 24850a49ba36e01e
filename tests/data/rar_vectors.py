"""Archives that RAR itself has packed, since no other program can.

They, and the file in them, are from the tests of rarfile 4.2 (https://github.com/markokr/rarfile), under this licence:

Copyright (c) 2005-2024 Marko Kreen <markokr@gmail.com>

Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted,
provided that the above copyright notice and this permission notice appear in all copies.

THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE INCLUDING ALL
IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT,
INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN
ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF
THIS SOFTWARE.
"""

import zlib

CONTENT = b"".join(b"%03d\n" % number for number in range(512))  # of stest1.txt and of stest2.txt

RAR4_PACKED = bytes.fromhex(  # seektest.rar: stest1.txt alone, as it stands there, without headers; RAR 2.9, method 5
    "0cccccfe8cdeafffec5f3575920765e26696e556482c5746403c42e19006ad874002080002223a5e03348301d84e905e12ecdba7"
    "d482b6b289d02eb9c2d922989c7eee0010f7903fed7dd615eea9b7df851c8dbed2d0dbedb940"
)

RAR4_SOLID = bytes.fromhex(  # rar3-solid.rar: stest1.txt, and stest2.txt by what the first has taught
    "526172211a07003bd07308000d000000000000002b347480902c005c0000000008000003a2e6b7c5b066cc3e1d330a00a4810000"
    "7374657374312e74787400c0110cccfe8c9eb0fe3181abacb1bb4077a80a64d64b3783c107bc01e08592eefbb61d000820000888"
    "e9780cd20c07613a41784bb36e9f520adaca2740bae70b648a6271fbb800919e502fd855fffac658ebebc4d7887e5496871f4dec"
    "d9167490902c000e0000000008000003a2e6b7c5b066cc3e1d330a00a48100007374657374322e74787400c0b120008807ebf20a"
    "69fafc94ded0c43d7b00400700"
)


def second_of(archive: bytes, name: bytes = b"stest2.txt", mode: int = 0o100644, size: int | None = None) -> bytes:
    """RAR4_SOLID with another header of its second file, whose checksum is right: name (10 bytes), mode, size."""
    start = archive.index(b"stest2.txt") - 32
    length = int.from_bytes(archive[start + 5 : start + 7], "little")
    header = bytearray(archive[start : start + length])
    header[32:42] = name
    header[28:32] = mode.to_bytes(4, "little")
    if size is not None:
        header[11:15] = size.to_bytes(4, "little")
    header[:2] = (zlib.crc32(header[2:]) & 0xFFFF).to_bytes(2, "little")
    return archive[:start] + bytes(header) + archive[start + length :]


RAR5_PACKED = bytes.fromhex(  # rar5-times.rar: stest1.txt
    "526172211a070100f3e182eb0b0105070006010180808000599de7432802030bb700048010a48302a2e6b7c58003010a73746573"
    "74312e7478740a030b9d8cf44d04784157c4aa34443424fa32eb47fac44d7dbde60580820a8cc1032a95ca229b501a93dd40fc00"
    "400200d4600436ed15f9b754832a644ecd7c1fe01d77565103050400"
)

RAR5_SOLID = bytes.fromhex(  # rar5-solid.rar: both
    "526172211a07010009efc86f0b0105070406010180808000def570721c0202ba00048010b68302a2e6b7c5801b010a7374657374"
    "312e747874c1ac37444423fa23f697fd625351be4c918141028cc103795cbf47a3aa2da03693dda05800400200d4500476f6c47f"
    "32ea9f32a5c4ccd783df0010e82d891c02028d00048010b68302a2e6b7c5c01b010a7374657374322e74787445150a6001000803"
    "dfb7fbf6fc1d77565103050400"
)
