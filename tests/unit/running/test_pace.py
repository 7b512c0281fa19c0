"""What the paced problem tells the problem behind it."""

import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from harness import CheckedComm, execute, shares
from made_traces import recorder
from mpi4py import MPI

from outpace.algorithms import allreduce_sgd
from outpace.benchmarks.problems import Problem
from outpace.benchmarks.running import pace, stragglers
from outpace.benchmarks.running.pace import PacedProblem
from outpace.benchmarks.running.stragglers import Delays, NoStragglers
from outpace.benchmarks.trace.recorder import Trace
from outpace.benchmarks.trace.snapshots import Snapshots


def test_a_gradient_knows_its_number() -> None:
    """From 0, and on from there after a checkpoint: what a problem draws for a gradient it draws by this number."""
    (problem,), seen = shares("quadratic:dim=3", 1), list[int]()
    gradient = problem.gradient

    def noting(x: Any, batch: np.ndarray | None, out: Any) -> None:
        seen.append(problem.calls)
        gradient(x, batch, out)

    problem.gradient = noting
    comm = CheckedComm(MPI.COMM_SELF.Dup())
    outcome = execute(comm, allreduce_sgd, problem, 9, compute_time=1e-6, pause=True, agreement=4)
    comm.Free()
    assert outcome.pauses == 1
    assert seen == list(range(9))


class Free(Problem):
    """A gradient that costs nothing."""

    xp, dim, n_samples, n_total = np, 100, 16, 16

    def x0(self) -> np.ndarray:
        return np.zeros(self.dim)

    def gradient(self, x: Any, batch: np.ndarray | None, out: Any) -> None:
        return None


def paced(diverged: Any = None) -> tuple[Any, Trace]:
    """A paced problem without delays, and its trace."""
    trace, problem = recorder(), Free()
    delays = Delays(NoStragglers(), seed=0, rank=0)
    return PacedProblem(problem, MPI.COMM_SELF, trace, delays, 0.0, 16, diverged), trace


def test_what_a_step_costs_beside_its_gradient() -> None:
    """Calls of Python's and of C functions: pacing and recording cost some microseconds of a step because of these."""
    problem, trace = paced()
    x, batch, calls = problem.x0(), np.arange(16), Counter[str]()

    def step() -> None:
        problem.gradient(x, batch, x)
        with trace.phase("allreduce", nbytes=x.nbytes):
            pass
        trace.snapshot(x)
        trace.record()

    step()
    sys.setprofile(lambda frame, event, _: calls.update([event]))
    step()
    sys.setprofile(None)
    assert calls["call"] + calls["c_call"] <= 45


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_is_told_once(value: float) -> None:
    told: list[int] = []
    problem, _ = paced(told.append)
    good, bad = np.full(100, 1e200), np.zeros(100)  # whose square overflows
    bad[57] = value
    for g in (good, bad, bad):
        problem.gradient(good, None, g)
    assert told == [1]


@pytest.mark.parametrize(("dim", "within"), [(3, 1), (pace.LOOKED_AT, 1), (20 * pace.LOOKED_AT + 7, pace.ROUNDS)])
@pytest.mark.parametrize("place", [0, 0.6, 1])
def test_what_is_not_finite_is_seen(dim: int, within: int, place: float) -> None:
    """At once in a short gradient, and wherever it stands in a long one."""
    (problem,) = shares(f"quadratic:dim={dim},samples=2", 1)
    gradient, at = problem.gradient, int(place * (dim - 1))

    def broken(x: Any, batch: np.ndarray | None, out: Any) -> None:
        gradient(x, batch, out)
        out[at] = np.nan if problem.calls >= 2 else out[at]

    problem.gradient = broken
    seen = list[int]()
    comm, x = MPI.COMM_SELF, problem.x0()
    trace = Trace(comm, Snapshots(0, dim, x.dtype, per_step=True))
    paced = pace.PacedProblem(problem, comm, trace, Delays(stragglers.parse("none"), 0, 0), 1e-9, 1, seen.append)
    for _ in range(2 + pace.ROUNDS):
        paced.gradient(x, None, np.empty_like(x))
    assert len(seen) == 1
    assert 2 <= seen[0] < 2 + within
