"""Recording a run: rows in memory, a part file per rank that survives any death, snapshots in a mapped store.

A part file is a sequence of blocks, each a header `(table, nbytes)` and its payload: JSON, or fixed records of one
table. Blocks are appended whole, every few seconds, and a torn last one is cut on reading. A run that goes on from a
checkpoint appends a new segment, which begins with a header of its own. HDF5 is written only once, when the parts are
merged (`archive`).
"""

import errno
import fcntl
import glob
import json
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from outpace.benchmarks.trace.recorder import APPLIED, EVENTS, STEPS, Trace
from outpace.comm import clock
from outpace.comm.errors import UserError

TRAFFIC: Final = np.dtype([("receiver", "<i8"), ("messages", "<i8"), ("nbytes", "<i8")])
OFFSETS: Final = np.dtype([("at", "<f8"), ("seconds", "<f8"), ("uncertainty", "<f8")])
TABLES: Final = {
    "json": np.dtype("u1"),
    "steps": STEPS,
    "events": EVENTS,
    "traffic": TRAFFIC,
    "offsets": OFFSETS,
    "applied": APPLIED,
}

_NUMBER: Final = {name: number for number, name in enumerate(TABLES)}
_BLOCK: Final = struct.Struct("<4sIQ")  # magic, table number, payload bytes
_MAGIC: Final = b"OPB1"


class Part:
    """The part file of one rank, `<target>.part-<rank>`, open for appending. Errors of the disk are OSError.

    A new file, or with `after` what is there, cut to so many bytes. It is locked as long as it is open, which tells
    whoever comes across it that the run lives.
    """

    def __init__(self, target: Path, rank: int, header: dict[str, Any], after: int = 0) -> None:
        self.path = part_path(target, rank)
        self._file: BinaryIO = open(self.path, "r+b" if after else "xb", buffering=0)  # noqa: SIM115, open as long as the run
        try:
            if os.fstat(self._file.fileno()).st_size < after:
                raise OSError(errno.EIO, "the part is shorter than its checkpoint says", str(self.path))
            _lock(self._file)
            self._file.truncate(after)
            self._file.seek(after)
            self.append("json", json.dumps(header).encode())
        except OSError:
            self._file.close()
            if not after:
                self.path.unlink()
            raise

    @property
    def nbytes(self) -> int:
        return self._file.tell()

    def append(self, table: str, payload: bytes) -> None:
        """One block. Nothing is written for no rows."""
        if not payload:
            return
        block = _BLOCK.pack(_MAGIC, _NUMBER[table], len(payload)) + payload
        if self._file.write(block) != len(block):  # a raw write may be cut short without an error: the disk is full
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def append_rows(self, trace: Trace, messages: np.ndarray, nbytes: np.ndarray) -> bool:
        """What was recorded since the last call, and the traffic so far; whether anything was recorded."""
        recorded = trace.drain()
        for table, rows in recorded.items():
            self.append(table, rows)
        receivers = np.flatnonzero(messages)
        traffic = np.empty(len(receivers), dtype=TRAFFIC)
        traffic["receiver"], traffic["messages"], traffic["nbytes"] = (
            receivers,
            messages[receivers],
            nbytes[receivers],
        )
        self.append("traffic", traffic.tobytes())
        return any(recorded.values())

    def append_offset(self, offset: clock.Offset) -> None:
        self.append("offsets", np.array([(offset.at, offset.seconds, offset.uncertainty)], dtype=OFFSETS).tobytes())

    def sync(self) -> None:
        """What was appended outlives the machine's next crash."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def part_path(target: Path, rank: int) -> Path:
    return target.with_name(f"{target.name}.part-{rank}")


def models_path(target: Path, rank: int) -> Path:
    return target.with_name(f"{target.name}.part-{rank}.models")


def leftovers(target: Path) -> list[Path]:
    """The part files of a run that did not end normally."""
    return sorted(path for path in target.parent.glob(f"{glob.escape(target.name)}.part-*"))


@dataclass
class Segment:
    """What a rank wrote from one start of the job to its end: JSON, later keys over earlier ones, and tables."""

    header: dict[str, Any] = field(default_factory=dict)
    blocks: dict[str, list[bytes]] = field(default_factory=lambda: {name: [] for name in TABLES if name != "json"})

    def table(self, name: str) -> np.ndarray:
        return np.frombuffer(b"".join(self.blocks[name]), dtype=TABLES[name])


def running(target: Path) -> bool:
    """Whether some process still writes a part of `target`."""
    for path in leftovers(target):
        with suppress(FileNotFoundError), open(path, "r+b") as part:
            try:
                _lock(part)
            except BlockingIOError:
                return True
    return False


def _lock(part: BinaryIO) -> None:
    """Lock a file as long as it is open. Raises BlockingIOError while another process has it locked."""
    try:
        fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(errno.EAGAIN, "another run writes its parts", part.name) from None
    except OSError:  # a file system without locks
        pass


def read_part(path: Path) -> list[Segment]:
    """The segments of a part file, one more for every time that the run went on. A torn end is cut.

    Raises UserError where the file is missing, is not a part or has lost its header.
    """
    segments: list[Segment] = []
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    for table, payload in _blocks(data):
        if table == "json":
            values = json.loads(payload)
            if "rank" in values:
                segments.append(Segment())
            segments[-1].header |= values
        else:
            segments[-1].blocks[table].append(payload[: len(payload) - len(payload) % TABLES[table].itemsize])
    if not segments:
        raise UserError(f"{path}: not a part of a trace, or cut before its header ended")
    return segments


def _blocks(data: bytes) -> Iterator[tuple[str, bytes]]:
    names, start = list(TABLES), 0
    while start + _BLOCK.size <= len(data):
        magic, number, nbytes = _BLOCK.unpack_from(data, start)
        payload = data[start + _BLOCK.size : start + _BLOCK.size + nbytes]
        torn = len(payload) < nbytes
        if magic != _MAGIC or number >= len(names) or (torn and names[number] == "json"):
            return
        yield names[number], payload
        start += _BLOCK.size + nbytes
