"""Recording a run: what a step of a rank costs and does, as fixed records in memory."""

import struct
from types import TracebackType
from typing import Any, Final

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.trace.schema import KIND
from outpace.benchmarks.trace.snapshots import SLOT_S, Snapshots
from outpace.comm import clock
from outpace.comm.meter import of_allreduce

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


# A server's logs of the gradients it applied and of those it dropped, in that order; those of one worker come in the
# order of its steps.
APPLIED: Final = np.dtype([("worker", "<i8"), ("t_s", "<f8"), ("staleness", "<i8")])


_STEP: Final = struct.Struct("<qdddddqq")


_EVENT: Final = struct.Struct("<qddqqq")


_APPLIED: Final = struct.Struct("<qdq")


class Phase:
    """Times a stretch of the calling thread and records it as one event; made by `Trace.phase`."""

    __slots__ = ("_background", "_kind", "_nbytes", "_peer", "_start", "_trace")

    def __init__(self, trace: "Trace", kind: int, peer: int, nbytes: int, background: bool) -> None:
        self._trace, self._kind, self._background = trace, kind, background
        self._peer, self._nbytes = peer, nbytes

    def __enter__(self) -> None:
        self._start = self._trace.now()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        trace = self._trace
        end = trace.now()
        trace._events.extend(_EVENT.pack(self._kind, self._start, end, trace.steps, self._peer, self._nbytes))
        if not self._background:
            trace._wait_s += end - self._start


class Trace:
    """What one rank records while it runs. No MPI inside; a call costs a few microseconds.

    `snapshot(x)` is called before each write to the model, by whichever thread writes, under the lock that guards
    the model. The model as it stood at every due moment is then known exactly, however late the next write comes.
    """

    def __init__(self, comm: MPI.Intracomm, snapshots: "Snapshots") -> None:
        self.comm = comm
        self._rank, self._size = comm.rank, comm.size
        self.now = clock.reader(comm)  # on this rank's clock
        self.steps = 0  # gradients computed here, or applied here by a server
        self.started_s = self.last_s = np.nan  # start of the timed part and end of the last step, on this rank's clock
        self._snapshots = snapshots
        # To extend these and to cut their front off is atomic: threads record and the watcher drains without a lock.
        self._rows, self._events, self._applied, self._dropped = (bytearray() for _ in range(4))
        self._wait_s = self._compute_s = self._injected_s = 0.0
        self._samples = 0

    def start(self, now: float, elapsed: float = 0.0) -> None:
        """The timed part began at `now` on this rank's clock; of it, so many seconds lie before a checkpoint."""
        self.started_s, self.last_s = now, now + elapsed

    def phase(self, kind: str, peer: int = -1, nbytes: int = 0, background: bool = False) -> Phase:
        """Context manager: an event of `kind` (schema.KIND). The gradient loop's phases add up to its `wait_s`;
        those of the communication thread are `background`. `nbytes` is what this rank sends meanwhile, of an allreduce
        the size of the vector: of that the meter's share is recorded."""
        if kind == "allreduce":
            nbytes = of_allreduce(nbytes, self._rank, self._size)
        return Phase(self, KIND[kind], peer, nbytes, background)

    def computed(self, start: float, computed: float, end: float, samples: int) -> None:
        """A gradient was computed from `start` to `computed` and then held back until `end`."""
        self._events.extend(_EVENT.pack(KIND["compute"], start, computed, self.steps, -1, 0))
        if end > computed:
            self._events.extend(_EVENT.pack(KIND["inject"], computed, end, self.steps, -1, 0))
            self._injected_s += end - computed
        self._compute_s += computed - start
        self._samples += samples

    def record(self, read_s: float = np.nan, local_writes: int = 0) -> None:
        """A gradient has been applied: close the row of this step.

        Asynchronous programs say when the model was read, and how many other writes it has seen since.
        """
        self.last_s = self.now()
        times = self.last_s, read_s, self._compute_s, self._injected_s, self._wait_s
        self._rows.extend(_STEP.pack(self.steps, *times, local_writes, self._samples))
        self.steps += 1
        self._wait_s = self._compute_s = self._injected_s = 0.0
        self._samples = 0

    def applied(self, worker: int, staleness: int) -> None:
        """A server has applied a gradient of `worker`, and `staleness` others since that worker pulled its model."""
        self.last_s = self.now()
        self._applied.extend(_APPLIED.pack(worker, self.last_s, staleness))
        self.steps += 1

    def dropped(self, worker: int, staleness: int) -> None:
        """A server has dropped a gradient of `worker`, after `staleness` others since that worker pulled its model."""
        self._dropped.extend(_APPLIED.pack(worker, self.now(), staleness))

    def snapshot(self, x: Any) -> None:
        """Keep the model if one is due; see the class for when to call it."""
        snapshots = self._snapshots
        position = self.steps if snapshots.per_step else (self.now() - self.started_s) / SLOT_S
        if snapshots.due <= position:
            snapshots.keep(x, position)

    def drain(self) -> dict[str, bytes]:
        """The records since the last call, by table."""
        tables = {
            "steps": self._rows,
            "events": self._events,
            "applied": self._applied,
            "dropped": self._dropped,
        }
        return {table: _drain(rows) for table, rows in tables.items()}


def _drain(rows: bytearray) -> bytes:
    drained = bytes(rows)
    del rows[: len(drained)]
    return drained
