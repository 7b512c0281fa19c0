"""The pace of each worker of an asynchronous program: nobody waits for all, so a slow worker costs its own gradients.

All workers together take as many gradients per second as their paces add up to. What a run without a delay would take
follows from that sum, as long as the others' paces stay, and as no server is busy all the time.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Paces:
    """Mean seconds of a gradient of each worker, shape (workers,): the whole cycle, and what of it was what.

    `single_s` and `waits_s` hold for each worker the cycles one by one, and the waiting in them. `service_s` is that of
    the busiest server for one gradient, 0 where there is none.
    """

    cycle_s: Seconds
    compute_s: Seconds
    injected_s: Seconds
    wait_s: Seconds
    single_s: list[Seconds]
    waits_s: list[Seconds]
    service_s: float

    @classmethod
    def of(cls, run: Run) -> "Paces":
        """Raises UserError where some worker has no gradient."""
        n = run.attrs["n_workers"]
        rank = run.column("steps", "rank")
        own = [np.flatnonzero(rank == r) for r in range(n)]
        if not all(map(len, own)):
            raise UserError(f"{run.path}: worker {[len(rows) for rows in own].index(0)} has no gradient in /steps")
        t_s, wait_s = run.column("steps", "t_s"), run.column("steps", "wait_s")
        single = [np.diff(t_s[rows], prepend=0.0) for rows in own]
        cycle_s = np.array([times.mean() for times in single])
        means = {
            name: np.array([run.column("steps", name)[rows].mean() for rows in own])
            for name in ("compute_s", "injected_s")
        }
        waits = [wait_s[rows] for rows in own]
        mean_wait_s = np.array([times.mean() for times in waits])
        served_s = serving_s(run)
        service_s = float(served_s.max(initial=0.0)) / len(rank)
        return cls(cycle_s, means["compute_s"], means["injected_s"], mean_wait_s, single, waits, service_s)

    def rate(self, cycle_s: Seconds | None = None) -> float:
        """Gradients per second of all workers together, at these cycles; of a server at most as many as it can apply.

        >>> zeros = np.zeros(2)
        >>> Paces(np.array([0.1, 0.5]), zeros, zeros, zeros, [], [], 0.0).rate()
        12.0
        """
        cycle_s = self.cycle_s if cycle_s is None else cycle_s
        together = float((1 / cycle_s).sum())
        return min(together, 1 / self.service_s) if self.service_s else together

    def persistence(self, worker: int, times: list[Seconds]) -> float:
        """How probably one of this worker's times is longer than one of another worker's: 1/2 of equals, 1 of one who
        is always slower (the statistic of Mann and Whitney, over their number of pairs)."""
        others = np.sort(np.concatenate([each for r, each in enumerate(times) if r != worker]))
        below = (np.searchsorted(others, times[worker], "left") + np.searchsorted(others, times[worker], "right")) / 2
        return float(below.mean() / len(others))


def serving_s(run: Run) -> Seconds:
    """Seconds in which each server was at work, in the order of their ranks; empty where there are none."""
    n, ranks = run.attrs["n_workers"], len(run.attrs["hostnames"])
    rank = run.column("events", "rank")
    served = rank >= n
    lasted = (run.column("events", "t_end_s") - run.column("events", "t_start_s"))[served]
    return np.bincount(rank[served] - n, lasted, minlength=ranks - n).astype(np.float64)
