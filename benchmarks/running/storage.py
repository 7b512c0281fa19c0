"""The files of a run on this rank while it goes on: its part and its store of snapshots."""

import json
import platform
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.problems import Problem, Unshared
from outpace.benchmarks.running.plan import Plan
from outpace.benchmarks.trace import checkpoint, lock, snapshots
from outpace.benchmarks.trace.checkpoint import Checkpoint, Counters
from outpace.benchmarks.trace.parts import Part, models_path, part_path
from outpace.benchmarks.trace.snapshots import Snapshots
from outpace.comm import agreement, memory
from outpace.comm.errors import LocalError, UserError
from outpace.comm.meter import MeteredComm

MUCH: Final = 2**30  # bytes of snapshots that a run says it will write


class Unwritten(UserError):
    """A disk that failed after the timed part; the parts are kept."""


class Storage:
    """`part` and `snapshots` of this rank, open; `held` is the slice of the model that it has, None where it has none.

    They go on as the checkpoint `resumed` says where there is one, and else are new.
    """

    def __init__(self, plan: Plan, rank: int, header: dict[str, Any], resumed: Checkpoint | None) -> None:
        """Of this rank only. Raises UserError where a file cannot be opened; it leaves none behind."""
        self.plan, self.rank = plan, rank
        self.held = plan.layout.held(header["attributes"]["dim"]).get(rank)
        self._begun = resumed is not None
        self._models = models_path(plan.target, rank, plan.launch.scratch)
        if plan.launch.scratch:
            header = header | {"models": str(self._models.absolute())}
        size = self.held.stop - self.held.start if self.held else 0
        dtype, per_step = np.dtype(plan.config.dtype), not plan.shared
        store = partial(Snapshots, header["capacity"], size, dtype, per_step, self._models)
        opened = False
        try:
            if resumed:
                self._go_on(resumed.counters, header, store)
                return
            if plan.launch.overwrite or plan.launch.anew:
                self._remove()
            self.part = Part(plan.target, rank, header)
            opened = True  # and not before: until then whatever has these names belongs to another run
            self.snapshots = store()
        except OSError as error:
            if opened:
                self._remove()
            flag, beside = ("--scratch", self._models) if opened and plan.launch.scratch else ("--out", plan.target)
            raise UserError(f"{flag}: rank {rank} cannot write beside {beside}: {error.strerror}") from None

    def _go_on(self, before: Counters, header: dict[str, Any], store: Callable[..., Snapshots]) -> None:
        """Take over what is there, if it is whole. Snapshots in a node's own scratch are lost on another node."""
        target, rank = self.plan.target, self.rank
        try:
            if not self.plan.launch.scratch and header["capacity"] and not self._models.exists():
                raise UserError(f"{self._models} is missing")
            self.snapshots = store(before.snapshots_due, before.snapshots_stride)
            if self.snapshots.missing and not self.plan.launch.scratch:
                raise UserError(f"{self._models}: {self.snapshots.missing} of its snapshots are damaged")
            self.part = Part(target, rank, header, after=before.part_nbytes)
        except UserError as error:
            raise UserError(
                f"rank {rank}: {error}; so the run cannot go on from its checkpoint: `outpace show --recover "
                f"{target.parent}` makes a trace of what is whole, --anew starts anew"
            ) from None

    def begin(self, started_s: float) -> None:
        """The timed part begins, at that moment of this rank's clock."""
        self._begun = True
        self.part.append("json", json.dumps({"started_s": started_s}).encode())

    def discard(self) -> None:
        """Remove the files again, unless there is something in them."""
        if not self._begun:
            self._remove()

    def close(self, keep: bool) -> None:
        """At the end of a run, whose files are to `keep` or have been merged. An open part tells that the run lives."""
        self.part.close()
        if not keep:
            self._models.unlink(missing_ok=True)

    def _remove(self) -> None:
        for path in (part_path(self.plan.target, self.rank), self._models):
            path.unlink(missing_ok=True)
        checkpoint.forget(self.plan.target, self.rank)


@contextmanager
def opened(
    comm: MeteredComm,
    plan: Plan,
    problem: Problem | Unshared,
    attributes: dict[str, Any],
    resumed: Checkpoint | None,
) -> Iterator[Storage]:
    """The files of all ranks, each its own, with the trace's `attributes` in their headers; collective.

    Either all ranks have theirs or UserError is raised on every rank. One that is raised inside, before the timed part
    has begun, takes the files away again.
    """
    slices = plan.layout.held(problem.dim)
    sizes = [part.stop - part.start for part in slices.values()]
    capacity = _capacity(comm, plan, sizes, plan.length(problem.n_total))
    header = {
        "rank": comm.rank,
        "ranks": comm.size,
        "pid": lock.process(),
        "host": platform.node(),
        "per_step": not plan.shared,
        "averages_workers": plan.config.averages_workers,
        "capacity": capacity if comm.rank in slices else 0,
        "labels": [] if problem.label_counts is None else problem.label_counts.tolist(),
        "attributes": attributes,
    }
    mine: list[Storage] = []  # one, as soon as it is open: the other ranks' may not be
    try:
        agreement.together(comm, lambda: mine.append(Storage(plan, comm.rank, header, resumed)))
        if any(comm.allgather(mine[0].snapshots.missing)) and comm.rank == 0:
            _say(plan, f"snapshots from before the checkpoint are not in {plan.launch.scratch}; they are not evaluated")
        yield mine[0]
    except LocalError:
        raise  # the other ranks would not come to the barrier
    except UserError:
        for storage in mine:
            storage.discard()
        comm.Barrier()  # before rank 0 lets the name go, which may then be another run's
        raise


def _capacity(comm: MeteredComm, plan: Plan, sizes: Sequence[int], length: int | None) -> int:
    """How many snapshots each holder of a slice of the model may keep, by the `sizes` of the slices; told where it is
    fewer than asked for, or much; collective."""
    asked, dtype = plan.launch.evaluations, np.dtype(plan.config.dtype)
    together = max(Counter(comm.allgather(platform.node())).values())
    folder = plan.launch.scratch or plan.target.parent
    room = comm.allreduce(snapshots.room(folder, together if plan.launch.scratch else comm.size, together), MPI.MIN)
    wanted = snapshots.wanted(asked, length)
    capacity: int = min(wanted, room // (max(sizes) * dtype.itemsize))
    if comm.rank == 0:
        if capacity < wanted:
            kept = capacity // 2 if length is None else capacity
            _say(plan, f"--evaluations cut to {kept}: snapshots may take {memory.amount(room)} a rank in {folder}")
        total = sum(snapshots.nbytes(capacity, size, dtype) for size in sizes)
        if total > MUCH:
            where = plan.launch.scratch or f"the folder of {plan.target}, unless there is --scratch"
            _say(plan, f"snapshots take {total / 2**30:.1f} GB in {where}, until the trace is written")
    return capacity


def _say(plan: Plan, text: str) -> None:
    print(f"{plan.name}: {text}", file=sys.stderr, flush=True)
