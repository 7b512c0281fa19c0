"""The straggler dial: the problem as a program sees it, its gradients timed, stretched and delayed."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.problems import Problem
from outpace.benchmarks.running.stragglers import Delays
from outpace.benchmarks.trace.recorder import Trace
from outpace.comm import clock
from outpace.comm.arrays import Later, Stretch, synchronise

CALIBRATION_CALLS = 7
LOOKED_AT = 1 << 14  # coordinates of a gradient that are looked at for what is not finite; in a longer one these, ...
ROUNDS = 64  # ... or more, and each time the next ones, so that all are looked at in so many gradients


class PacedProblem:
    """Forwards to `problem`; its gradients, and its products where it has them, take at least `compute_time` seconds
    per `batch_size` samples, by sleeping, and then the straggler's delay, so no program injects anything itself.

    `base_s` is the compute time of one batch that the straggler factors multiply. `calls` counts the gradients, by
    whose numbers the delays are drawn. `diverged` is called once, with the worker's own step, for the first gradient
    that is seen not to be finite, of a long one within ROUNDS steps.
    """

    def __init__(
        self,
        problem: Problem,
        comm: MPI.Intracomm,
        trace: Trace,
        delays: Delays,
        compute_time: float,
        batch_size: int,
        diverged: Callable[[int], None],
    ) -> None:
        self.problem = problem
        self.base_s = compute_time or median_gradient_s(problem, batch_size, comm)
        self._comm, self._trace, self._now, self._delays = comm, trace, trace.now, delays
        self._compute_time, self._batch_size, self._diverged = compute_time, batch_size, diverged
        self._on_device = problem.xp is not np
        self.calls = 0
        self._finite = True
        self._square = Later(problem.x0()) if self._on_device else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.problem, name)

    def gradient(self, x: Any, batch: np.ndarray | None, out: Any) -> None:
        # What is still to be done of an update on a device is no part of the gradient.
        start = Stretch(x, self._now) if self._on_device else self._now()
        self.problem.calls = self.calls
        self.problem.gradient(x, batch, out)
        self._computed(start, batch, out)

    def product(self, c: Any, v: Any, batch: np.ndarray | None, out: Any) -> None:
        start = Stretch(v, self._now) if self._on_device else self._now()
        self.problem.product(c, v, batch, out)  # type: ignore[attr-defined]
        self._computed(start, batch, out)

    def _computed(self, start: Any, batch: np.ndarray | None, out: Any) -> None:
        """Stretch and record a result `out` over the batch, the end of the work that was begun at `start`."""
        # The square is one pass without a temporary; only a suspicious one is looked at closely, since that of finite
        # entries may overflow.
        part = out if len(out) < 2 * LOOKED_AT else self._part(out)
        square = part.dot(part)
        if self._square:
            self._square.put(square)
            start = start.end(out)
            square = self._square.get()
        if not math.isfinite(square):
            self._check(part)
        samples = self.problem.n_samples if batch is None else len(batch)
        share = samples / self._batch_size
        computed = end = self._sleep_until(start + self._compute_time * share)
        if not self._delays.none and (delay := self._delays.seconds(self.calls, self.base_s, share)):
            end = self._sleep_until(computed + delay)
        self._trace.computed(start, computed, end, samples)
        self.calls += 1

    def _sleep_until(self, then: float) -> float:
        """The time now, which is `then` or later."""
        now = self._now()
        if now >= then:
            return now
        clock.sleep(self._comm, then - now)
        return self._now()

    def _part(self, g: Any) -> Any:
        """What is looked at of a long gradient this time: a pass over all of it would cost more than its update.

        What is missed stays in the model, and so in the gradients to come.
        """
        parts = min(ROUNDS, len(g) // LOOKED_AT)
        size = -(-len(g) // parts)
        return g[self.calls % parts * size :][:size]

    def _check(self, g: Any) -> None:
        if self._finite and not bool(self.problem.xp.isfinite(g).all()):
            self._finite = False
            self._diverged(self.calls)


def rehearsal(problem: Problem, batch_size: int, comm: MPI.Intracomm, compute_time: float = 0.0) -> Callable[[], None]:
    """A gradient over one batch at the start, as long as in the run but not recorded."""
    x = problem.x0()
    g = problem.xp.empty_like(x)
    batch = np.arange(batch_size) % problem.n_samples

    def gradient() -> None:
        start = clock.now(comm)
        problem.gradient(x, batch, g)
        synchronise(g)
        rest = start + compute_time - clock.now(comm)
        if rest > 0:
            clock.sleep(comm, rest)

    return gradient


def median_gradient_s(problem: Problem, batch_size: int, comm: MPI.Intracomm) -> float:
    """Median time of a gradient over one batch, after a warm-up call."""
    gradient, times = rehearsal(problem, batch_size, comm), []
    for _ in range(CALIBRATION_CALLS):
        start = clock.now(comm)
        gradient()
        times.append(clock.now(comm) - start)
    return clock.median(times[1:])
