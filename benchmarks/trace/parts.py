"""Recording a run: rows in memory, a part file per rank that survives any death, snapshots in a mapped store.

A part file is a sequence of blocks (`blocks`), each of them JSON or fixed records of one table. Blocks are appended
whole, every few seconds; reading ends before one that was damaged or cut. A run that goes on from a checkpoint appends
a new segment, which begins with a header of its own. HDF5 is written only once, when the parts are merged (`archive`).
"""

import errno
import fcntl
import glob
import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from outpace.benchmarks.trace import blocks
from outpace.benchmarks.trace.recorder import APPLIED, EVENTS, STEPS, Trace
from outpace.comm import clock
from outpace.comm.errors import UserError

TRAFFIC: Final = np.dtype([("receiver", "<i8"), ("messages", "<i8"), ("nbytes", "<i8"), ("t_s", "<f8")])  # until t_s
OFFSETS: Final = np.dtype([("at", "<f8"), ("seconds", "<f8"), ("uncertainty", "<f8")])
NETWORK: Final = np.dtype([("b", "<i8"), ("rtt_s", "<f8"), ("bytes_per_s", "<f8")])  # this rank is `a`
LINKS: Final = np.dtype([("rank", "<i8"), ("t_s", "<f8"), ("bytes_per_s", "<f8")])
TABLES: Final = {
    "json": np.dtype("u1"),
    "steps": STEPS,
    "events": EVENTS,
    "traffic": TRAFFIC,
    "offsets": OFFSETS,
    "applied": APPLIED,
    "network": NETWORK,
    "links": LINKS,
    "dropped": APPLIED,
}

_NUMBER: Final = {name: number for number, name in enumerate(TABLES)}


class Part:
    """The part file of one rank, `<target>.part-<rank>`, open for appending. Errors of the disk are OSError.

    A new file, or with `after` what is there, cut to so many bytes; UserError where these are damaged. It is locked as
    long as it is open, which tells whoever comes across it that the run lives.
    """

    def __init__(self, target: Path, rank: int, header: dict[str, Any], after: int = 0) -> None:
        self._rank, self.path = rank, part_path(target, rank)
        self._file: BinaryIO = open(self.path, "r+b" if after else "x+b", buffering=0)  # noqa: SIM115, open as long as the run
        try:
            if os.fstat(self._file.fileno()).st_size < after:
                raise OSError(errno.EIO, "the part is shorter than its checkpoint says", str(self.path))
            _lock(self._file)
            damaged_at = blocks.unpack(self._file.read(after))[1]
            if damaged_at is not None:
                raise UserError(f"{self.path}: damaged or cut at byte {damaged_at}")
            self._file.truncate(after)
            self._file.seek(after)
            self.append("json", json.dumps(header).encode())
        except (OSError, UserError):
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
        block, start = blocks.pack(_NUMBER[table], payload), self._file.tell()
        if self._file.write(block) != len(block):  # a raw write may be cut short without an error: the disk is full
            self._file.truncate(start)
            self._file.seek(start)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def append_rows(self, trace: Trace, messages: np.ndarray, nbytes: np.ndarray) -> bool:
        """What was recorded since the last call, and the traffic so far; whether anything was recorded."""
        now, recorded = trace.now(), trace.drain()
        for table, rows in recorded.items():
            self.append(table, rows)
        self.append("traffic", traffic(self._rank, messages, nbytes, now))
        return any(recorded.values())

    def append_network(self, pairs: Sequence[tuple[int, float, float]]) -> None:
        self.append("network", np.array(pairs, dtype=NETWORK).tobytes())

    def append_links(self, changes: Sequence[tuple[int, float, float]]) -> None:
        """Changes of links as (rank, time on this rank's clock, rate)."""
        self.append("links", np.array(changes, dtype=LINKS).tobytes())

    def append_offset(self, offset: clock.Offset) -> None:
        self.append("offsets", np.array([(offset.at, offset.seconds, offset.uncertainty)], dtype=OFFSETS).tobytes())

    def sync(self) -> None:
        """What was appended outlives the machine's next crash."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def traffic(rank: int, messages: np.ndarray, nbytes: np.ndarray, now: float) -> bytes:
    """Rows of what this rank has sent until now, by receiver; at least one, which says that this is all so far."""
    told = messages > 0
    told[rank] = True
    receivers = np.flatnonzero(told)
    rows = np.empty(len(receivers), dtype=TRAFFIC)
    rows["receiver"], rows["t_s"] = receivers, now
    rows["messages"], rows["nbytes"] = messages[receivers], nbytes[receivers]
    return rows.tobytes()


def part_path(target: Path, rank: int) -> Path:
    return target.with_name(f"{target.name}.part-{rank}")


def models_path(target: Path, rank: int, scratch: Path | None = None) -> Path:
    """The store of a rank's snapshots: beside its part, or in a folder that targets of one name may share."""
    if scratch is None:
        return target.with_name(f"{target.name}.part-{rank}.models")
    digest = hashlib.sha256(os.fsencode(target.resolve())).hexdigest()[:16]
    return scratch / f"{target.name}.part-{rank}.{digest}.models"


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


class Damaged(UserError):
    """Damage in a part; `before` are the segments as far as they stand before it."""

    def __init__(self, message: str, before: list[Segment]) -> None:
        super().__init__(message)
        self.before = before


def read_part(path: Path) -> list[Segment]:
    """The segments of a part file, one more for every time that the run went on.

    Raises UserError where the file is missing, is not a part or has lost its header; Damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if data.startswith(blocks.EARLIER):
        raise UserError(f"{path}: of an earlier release, without checksums; recover it with that release")
    whole, damaged_at = blocks.unpack(data)
    segments: list[Segment] = []
    names = list(TABLES)
    try:
        for number, payload in whole:
            if names[number] == "json":
                values = json.loads(payload)
                if "rank" in values:
                    segments.append(Segment())
                segments[-1].header |= values
            else:
                segments[-1].blocks[names[number]].append(payload)
    except (ValueError, TypeError, IndexError):  # whole blocks, but none of a part
        segments.clear()
    if not segments:
        raise UserError(f"{path}: not a part of a trace, or cut or damaged before its header ended")
    if damaged_at is not None:
        raise Damaged(f"{path}: damaged or cut at byte {damaged_at}", segments)
    return segments
