"""Blocks: how parts and checkpoints stand on the disk, so that a torn end is cut and a damaged byte is found.

A block is a header and its payload. The header has the payload's length and checksum, and one of its own. A block that
the file's end cuts short was torn by a kill; whatever else does not fit its checksum was damaged later.
"""

import struct
import zlib
from typing import Final

MAGIC: Final = b"OPB2"
EARLIER: Final = (b"OPB1", b"PK\x03\x04")  # parts and checkpoints of releases without checksums

_FRONT: Final = struct.Struct("<4sIQI")  # magic, kind, payload bytes, CRC-32 of the payload
_CHECK: Final = struct.Struct("<I")  # CRC-32 of the front
HEADER_NBYTES: Final = _FRONT.size + _CHECK.size


def pack(kind: int, payload: bytes) -> bytes:
    front = _FRONT.pack(MAGIC, kind, len(payload), zlib.crc32(payload))
    return front + _CHECK.pack(zlib.crc32(front)) + payload


def unpack(data: bytes) -> tuple[list[tuple[int, bytes]], int | None]:
    """The kinds and payloads of all whole blocks up to the first damage, and the byte where that block begins; None
    without damage."""
    blocks: list[tuple[int, bytes]] = []
    start = 0
    while start + HEADER_NBYTES <= len(data):
        front = data[start : start + _FRONT.size]
        (check,) = _CHECK.unpack_from(data, start + _FRONT.size)
        magic, kind, nbytes, checksum = _FRONT.unpack(front)
        if magic != MAGIC or check != zlib.crc32(front):
            return blocks, start
        end = start + HEADER_NBYTES + nbytes
        if end > len(data):
            break
        payload = data[end - nbytes : end]
        if checksum != zlib.crc32(payload):
            return blocks, start
        blocks.append((kind, payload))
        start = end
    return blocks, None
