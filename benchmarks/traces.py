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
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.schema import KIND
from outpace.comm import clock
from outpace.comm.arrays import copy
from outpace.comm.spec import UserError

# Times in parts are seconds on the rank's own clock. `read_s` is when the gradient's model was read (NaN where the
# program is synchronous); the merge turns it into staleness once all clocks are known.
STEPS: Final = np.dtype(
    [
        ("step", "<i8"),
        ("t_s", "<f8"),
        ("read_s", "<f8"),
        ("compute_s", "<f8"),
        ("injected_s", "<f8"),
        ("wait_s", "<f8"),
        ("local_writes", "<i8"),
        ("samples", "<i8"),
    ]
)
EVENTS: Final = np.dtype(
    [
        ("kind", "<i8"),
        ("t_start_s", "<f8"),
        ("t_end_s", "<f8"),
        ("step", "<i8"),
        ("peer", "<i8"),
        ("nbytes", "<i8"),
    ]
)
TRAFFIC: Final = np.dtype([("receiver", "<i8"), ("messages", "<i8"), ("nbytes", "<i8")])
# A server's log of the gradients it applied, in that order; those of one worker come in the order of its steps.
APPLIED: Final = np.dtype([("worker", "<i8"), ("t_s", "<f8"), ("staleness", "<i8")])
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
_STEP: Final = struct.Struct("<qdddddqq")
_EVENT: Final = struct.Struct("<qddqqq")
_APPLIED: Final = struct.Struct("<qdq")

STORE_LIMIT: Final = 512 * 2**20  # bytes of snapshots per rank
SLOT_S: Final = 1e-3  # first stride of an asynchronous program's snapshots


class Phase:
    """Times a stretch of the calling thread and records it as one event; made by `Trace.phase`."""

    __slots__ = ("_background", "_kind", "_nbytes", "_peer", "_start", "_trace")

    def __init__(self, trace: "Trace", kind: int, peer: int, nbytes: int, background: bool) -> None:
        self._trace, self._kind, self._peer, self._nbytes, self._background = (
            trace,
            kind,
            peer,
            nbytes,
            background,
        )

    def __enter__(self) -> None:
        self._start = clock.now(self._trace.comm)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        trace = self._trace
        end = clock.now(trace.comm)
        trace._events.append(_EVENT.pack(self._kind, self._start, end, trace.steps, self._peer, self._nbytes))
        if not self._background:
            trace._wait_s += end - self._start


class Trace:
    """What one rank records while it runs. No MPI inside; a call costs a few microseconds.

    `snapshot(x)` is called before each write to the model, by whichever thread writes, under the lock that guards
    the model. The model as it stood at every due moment is then known exactly, however late the next write comes.
    """

    def __init__(self, comm: MPI.Intracomm, snapshots: "Snapshots") -> None:
        self.comm = comm
        self.steps = 0  # gradients computed here, or applied here by a server
        self.started_s = self.last_s = np.nan  # start of the timed part and end of the last step, on this rank's clock
        self._snapshots = snapshots
        # Deques: appending and popping are atomic, so threads record and the watcher drains without a lock.
        self._rows: deque[bytes] = deque()
        self._events: deque[bytes] = deque()
        self._applied: deque[bytes] = deque()
        self._wait_s = self._compute_s = self._injected_s = 0.0
        self._samples = 0

    def start(self, now: float, elapsed: float = 0.0) -> None:
        """The timed part began at `now` on this rank's clock; of it, so many seconds lie before a checkpoint."""
        self.started_s, self.last_s = now, now + elapsed

    def now(self) -> float:
        return clock.now(self.comm)

    def phase(self, kind: str, peer: int = -1, nbytes: int = 0, background: bool = False) -> Phase:
        """Context manager: an event of `kind` (schema.KINDS). The gradient loop's phases add up to its `wait_s`;
        those of the communication thread are `background`. `nbytes` is what this rank sends meanwhile."""
        return Phase(self, KIND[kind], peer, nbytes, background)

    def computed(self, start: float, computed: float, end: float, samples: int) -> None:
        """A gradient was computed from `start` to `computed` and then held back until `end`."""
        self._events.append(_EVENT.pack(KIND["compute"], start, computed, self.steps, -1, 0))
        if end > computed:
            self._events.append(_EVENT.pack(KIND["inject"], computed, end, self.steps, -1, 0))
            self._injected_s += end - computed
        self._compute_s += computed - start
        self._samples += samples

    def record(self, read_s: float = np.nan, local_writes: int = 0) -> None:
        """A gradient has been applied: close the row of this step.

        Asynchronous programs say when the model was read, and how many other writes it has seen since.
        """
        self.last_s = clock.now(self.comm)
        times = self.last_s, read_s, self._compute_s, self._injected_s, self._wait_s
        self._rows.append(_STEP.pack(self.steps, *times, local_writes, self._samples))
        self.steps += 1
        self._wait_s = self._compute_s = self._injected_s = 0.0
        self._samples = 0

    def applied(self, worker: int, staleness: int) -> None:
        """A server has applied a gradient of `worker`, and `staleness` others since that worker pulled its model."""
        self.last_s = clock.now(self.comm)
        self._applied.append(_APPLIED.pack(worker, self.last_s, staleness))
        self.steps += 1

    def snapshot(self, x: Any) -> None:
        """Keep the model if one is due; see the class for when to call it."""
        self._snapshots.offer(x, self.steps, clock.now(self.comm) - self.started_s)

    def drain(self) -> dict[str, bytes]:
        """The records since the last call, by table."""
        queues = {"steps": self._rows, "events": self._events, "applied": self._applied}
        return {table: _drain(queue) for table, queue in queues.items()}


class Snapshots:
    """Up to `capacity` copies of the model, kept at multiples of a stride that doubles when the store is full.

    So a run of any length ends with between half and all of `capacity`. The stride counts steps where the program is
    synchronous, and else `SLOT_S` of aligned time. A copy's tag is its multiple of the first stride; the start is not
    kept. With a `path` the store is a mapped file (tags, then models) that outlives the process; with `due` and
    `stride` as they stood at a checkpoint, the store that is there is taken over, without what came after.
    """

    def __init__(
        self,
        capacity: int,
        dim: int,
        dtype: np.dtype[Any],
        per_step: bool,
        path: Path | None = None,
        due: int = 1,
        stride: int = 1,
    ) -> None:
        self.per_step = per_step
        self.path = path if capacity else None
        self.due, self.stride = due, stride
        shape = (capacity, dim)
        if self.path is None:
            self._tags, self._models = np.zeros(capacity, dtype=np.int64), np.empty(shape, dtype=dtype)
        else:
            if not self.path.exists():
                _allocate(self.path, capacity * (8 + dim * dtype.itemsize))
            self._tags, self._models = _mapped(self.path, capacity, dim, dtype, "r+")
        self._tags[self._tags >= due] = 0

    @classmethod
    def read(cls, path: Path, capacity: int, dim: int, dtype: np.dtype[Any]) -> "Snapshots":
        """The store that a killed run left behind, or an empty one where none is left."""
        self = cls(0, dim, dtype, per_step=True)
        if path.exists():
            self._tags, self._models = _mapped(path, capacity, dim, dtype, "r")
        return self

    def offer(self, x: Any, steps: int, seconds: float) -> None:
        """Keep `x` for every due moment that has passed; the model has not changed since the last offer."""
        position = steps if self.per_step else seconds / SLOT_S
        while self.due <= position and len(self._tags):
            self._keep(x)
            self.due += self.stride

    def _keep(self, x: Any) -> None:
        free = np.flatnonzero(self._tags == 0)
        if not len(free):
            self.stride *= 2
            self._tags[self._tags % self.stride != 0] = 0
            if self.due % self.stride:  # the due moment itself falls out; the caller's addition lands on the next
                self.due -= self.stride // 2
                return
            free = np.flatnonzero(self._tags == 0)
        row = free[0]
        copy(x, self._models[row])
        self._tags[row] = self.due  # last, so that a torn copy has no tag

    def tags(self) -> np.ndarray:
        """The tags of the kept copies, ascending."""
        return np.sort(self._tags[self._tags > 0])

    def sync(self) -> None:
        """What was kept outlives the machine's next crash."""
        for store in (self._models, self._tags):  # a tag without its model would be worse than none
            if isinstance(store, np.memmap):
                store.flush()

    def __getitem__(self, tag: int) -> np.ndarray:
        """The copy with this tag, float64, shape (dim,)."""
        (row,) = np.flatnonzero(self._tags == tag)
        return np.asarray(self._models[row], dtype=np.float64)


def capacity(evaluations: int, dim: int, dtype: np.dtype[Any]) -> int:
    """How many snapshots a rank may keep for `evaluations` of them in the end: twice as many, if they fit."""
    fit = STORE_LIMIT // (dim * dtype.itemsize)
    return 2 * min(evaluations, fit // 2)


def _allocate(path: Path, nbytes: int) -> None:
    """A file whose space is really reserved: a full disk under a mapped file is a fatal signal, not an error."""
    with open(path, "xb") as file:
        os.posix_fallocate(file.fileno(), 0, nbytes)


def _mapped(path: Path, capacity: int, dim: int, dtype: np.dtype[Any], mode: Any) -> tuple[np.ndarray, np.ndarray]:
    tags = np.memmap(path, np.int64, mode, 0, (capacity,))
    return tags, np.memmap(path, dtype, mode, tags.nbytes, (capacity, dim))


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

    def append_rows(self, trace: Trace, messages: np.ndarray, nbytes: np.ndarray) -> None:
        """What was recorded since the last call, and the traffic so far."""
        for table, rows in trace.drain().items():
            self.append(table, rows)
        receivers = np.flatnonzero(messages)
        traffic = np.empty(len(receivers), dtype=TRAFFIC)
        traffic["receiver"], traffic["messages"], traffic["nbytes"] = (
            receivers,
            messages[receivers],
            nbytes[receivers],
        )
        self.append("traffic", traffic.tobytes())

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


@contextmanager
def whole(path: Path, temporary: Path) -> Iterator[BinaryIO]:
    """A file to write under a temporary name, which replaces `path` at the end; on an error nothing is left of it."""
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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


def _drain(queue: deque[bytes]) -> bytes:
    return b"".join(queue.popleft() for _ in range(len(queue)))
