"""The files of a run on this rank while it goes on: its part and its store of snapshots."""

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from outpace.benchmarks.problems import Problem, Unshared
from outpace.benchmarks.running.plan import Plan
from outpace.benchmarks.trace import checkpoint, snapshots
from outpace.benchmarks.trace.checkpoint import Checkpoint
from outpace.benchmarks.trace.parts import Part, models_path, part_path
from outpace.benchmarks.trace.snapshots import Snapshots
from outpace.comm import agreement
from outpace.comm.errors import UserError
from outpace.comm.meter import MeteredComm


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
        target, dtype = plan.target, np.dtype(plan.config.dtype)
        size = self.held.stop - self.held.start if self.held else 0
        store = header["capacity"], size, dtype, not plan.shared, models_path(target, rank)
        opened = False
        try:
            if resumed:
                before = resumed.counters
                self.part = Part(target, rank, header, after=before.part_nbytes)
                self.snapshots = Snapshots(*store, before.snapshots_due, before.snapshots_stride)
                return
            if plan.launch.overwrite:
                self._remove()
            self.part = Part(target, rank, header)
            opened = True  # and not before: until then whatever has these names belongs to another run
            self.snapshots = Snapshots(*store)
        except OSError as error:
            if opened:
                self._remove()
            raise UserError(f"--out: rank {rank} cannot write beside {target}: {error.strerror}") from None

    def begin(self, started_s: float) -> None:
        """The timed part begins, at that moment of this rank's clock."""
        self._begun = True
        self.part.append("json", json.dumps({"started_s": started_s}).encode())

    def discard(self) -> None:
        """Remove the files again, unless there is something in them."""
        if not self._begun:
            self._remove()

    def _remove(self) -> None:
        for path in (part_path(self.plan.target, self.rank), models_path(self.plan.target, self.rank)):
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
    largest = max(part.stop - part.start for part in slices.values())
    capacity = snapshots.capacity(plan.launch.evaluations, largest, np.dtype(plan.config.dtype))
    if capacity < 2 * plan.launch.evaluations and comm.rank == 0:
        print(
            f"{plan.name}: --evaluations cut to {capacity // 2}: snapshots are limited to 512 MB a rank",
            file=sys.stderr,
        )
    header = {
        "rank": comm.rank,
        "ranks": comm.size,
        "pid": os.getpid(),
        "host": platform.node(),
        "per_step": not plan.shared,
        "capacity": capacity if comm.rank in slices else 0,
        "labels": [] if problem.label_counts is None else problem.label_counts.tolist(),
        "attributes": attributes,
    }
    mine: list[Storage] = []  # one, as soon as it is open: the other ranks' may not be
    try:
        agreement.together(comm, lambda: mine.append(Storage(plan, comm.rank, header, resumed)))
        yield mine[0]
    except UserError:
        for storage in mine:
            storage.discard()
        raise
