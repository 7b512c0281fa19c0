"""Blocks: how parts and checkpoints stand on the disk, so that a damaged byte is found, and an end that was cut.

A block is a header and its payload. The header has the payload's length and checksum, and one of its own.
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
    """The kinds and payloads of all blocks before the first that is damaged or cut, and the byte where that one begins;
    None where all are whole."""
    blocks: list[tuple[int, bytes]] = []
    start = 0
    while start < len(data):
        front = data[start : start + _FRONT.size]
        payload_at = start + HEADER_NBYTES
        if payload_at > len(data) or _CHECK.unpack_from(data, start + _FRONT.size)[0] != zlib.crc32(front):
            return blocks, start
        magic, kind, nbytes, checksum = _FRONT.unpack(front)
        payload = data[payload_at : payload_at + nbytes]
        if magic != MAGIC or len(payload) != nbytes or checksum != zlib.crc32(payload):
            return blocks, start
        blocks.append((kind, payload))
        start = payload_at + nbytes
    return blocks, None
