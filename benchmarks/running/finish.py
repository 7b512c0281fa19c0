"""From snapshots to the trace: the same at the end of a run and after a killed one."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.problems import Problem
from outpace.benchmarks.running.evaluate import evaluate
from outpace.benchmarks.running.storage import Unwritten
from outpace.benchmarks.trace.parts import Damaged
from outpace.benchmarks.trace.snapshots import Snapshots
from outpace.comm import agreement, prox
from outpace.comm.layout import Layout

if TYPE_CHECKING:
    from outpace.benchmarks.trace.archive import Parts

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Course:
    """A run behind us, as the processes of `comm` have it between them: the workers' shares of the objective, and the
    slices of the layout's models with their snapshots."""

    comm: MPI.Intracomm
    layout: Layout
    shares: Sequence[Problem]  # of this process
    x_start: np.ndarray  # the whole model's, float64, shape (dim,)
    held: Sequence[slice]  # by this process
    stores: Sequence[Snapshots]  # of these slices
    reached: float  # how far every rank has come, in the unit of the snapshots' tags
    x_end: Sequence[np.ndarray] | None = None  # these slices at the end, float64; None where the run was killed

    @property
    def ended(self) -> bool:
        return self.x_end is not None

    def tags(self) -> np.ndarray:
        """The tags that every holder has and every rank has reached; collective. The end is a point of its own."""
        gathered = self.comm.allgather([store.tags() for store in self.stores])
        shared = set.intersection(*map(set, itertools.chain.from_iterable(gathered)))
        tags = np.array(sorted(shared), dtype=np.int64)
        return tags[tags < self.reached] if self.ended else tags[tags <= self.reached]

    def points(self, tags: np.ndarray) -> Iterator[Sequence[np.ndarray]]:
        """This process's slices of the models at the start, at the tags, and at the end where there is one."""
        yield [self.x_start[part] for part in self.held]
        for tag in tags:
            yield [store[tag] for store in self.stores]
        if self.x_end is not None:
            yield self.x_end


def finish(
    course: Course,
    target: Path,
    attributes: dict[str, Any],
    psi: prox.Prox,
    measure: Callable[[int, np.ndarray], tuple[dict[str, float], Columns]] | None = None,
    keep: bool = False,
    overwrite: bool = False,
    parts: "Parts | None" = None,
) -> Path | None:
    """Evaluate the course at its points and merge the parts into `target`; collective over the course's processes.
    Where the trace was written, on rank 0.

    `psi` is what the objective has beside the problem's. `measure`, collective as well, gives a row of /geometry and
    rows of /noise for the number and the mean model of a point. The parts are removed unless they are to `keep`, and
    another run's trace at `target` is replaced only to `overwrite` it. A run without part files has its `parts` in
    memory. Raises Unwritten.
    """
    comm, shapes, noises = course.comm, list[dict[str, float]](), list[Columns]()

    def at(x_bar: np.ndarray) -> None:
        if measure:
            row, rows = measure(len(shapes), x_bar)
            shapes.append(row)
            noises.append(rows)

    tags, dim = course.tags(), course.x_start.size
    values, x_mean = evaluate(comm, course.layout, course.shares, course.held, dim, course.points(tags), at, psi)
    shape = {name: np.array([row[name] for row in shapes]) for name in shapes[0]} if shapes else None
    noise = {name: np.concatenate([rows[name] for rows in noises]) for name in noises[0]} if noises else None
    if course.ended and psi == prox.NOTHING and len(course.shares) < 2:  # of one share a process, as answers are made
        known = _answer(course, x_mean)
        attributes = attributes | ({"answer": json.dumps(known)} if known else {})

    def merge() -> Path:
        from outpace.benchmarks.trace import archive  # and h5py, which is slow and only rank 0 needs

        try:
            told = parts or archive.Parts.read(target, salvage="damage" in attributes)
            path = archive.merge(told, target, attributes, tags, values, x_mean, course.ended, shape, noise, overwrite)
            if not keep:
                archive.forget(target)
            return path
        except OSError as error:
            raise Unwritten(f"rank 0: cannot write {target}: {error.strerror or error}") from None
        except Damaged as error:
            raise Unwritten(f"rank 0: {error}; `outpace show --recover` makes a trace of what is whole") from None

    return agreement.on_root(comm, merge)


def _answer(course: Course, x_mean: np.ndarray) -> dict[str, float]:
    """What the problem says of x_mean, on rank 0: servers have no share of it, and are not asked."""
    sharing = MPI.Intracomm(course.comm).Split(0 if course.shares else MPI.UNDEFINED)
    if sharing == MPI.COMM_NULL:
        return {}
    known = course.shares[0].answer(MPI.Intracomm(sharing), x_mean)
    sharing.Free()
    return known
