"""PowerSGD beyond the conformance table: its special case, what it forgets and what not, whom it refuses."""

from typing import Any

import numpy as np
import pytest
from harness import CheckedComm, Rounds, execute, share

from outpace.algorithms import allreduce_sgd, powersgd
from outpace.benchmarks.conformance.row import ring_allreduce
from outpace.benchmarks.trace.recorder import Trace
from outpace.benchmarks.trace.snapshots import Snapshots
from outpace.comm.errors import UserError


@pytest.mark.ranks(1, 2, 3, 4)
@pytest.mark.parametrize("problem", ["digits:hidden=5", "quadratic:dim=60,sigma=0.3,zeta=1,rows=5"])
def test_at_full_rank_it_is_allreduce_sgd(comm: CheckedComm, problem: str) -> None:
    """Also where a gradient has a lower rank than its matrix: those of digits' last layer sum to zero along a row."""
    mine = share(comm, problem)
    x, expected = (
        execute(comm, program, mine, 30, step_size=0.2, **config).x
        for program, config in ((powersgd, {"rank": 64, "momentum": 0.0}), (allreduce_sgd, {}))
    )
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-10)


class Matrix:
    """A model of one matrix and one vector, and a worker's gradients of it, step by step."""

    xp, n_samples, n_total = np, 16, 16

    def __init__(self, matrices: list[np.ndarray]) -> None:
        rows, columns = matrices[0].shape
        self.shapes, self.dim = [(rows,), (rows, columns)], rows * (columns + 1)
        self.gradients = [np.concatenate([M.sum(axis=1), M.ravel()]) for M in matrices]
        self._left = iter(self.gradients)

    def x0(self) -> np.ndarray:
        return np.zeros(self.dim)

    def gradient(self, x: np.ndarray, batch: np.ndarray, out: np.ndarray) -> None:
        out[:] = next(self._left)


def drive(comm: CheckedComm, problem: Matrix, **config: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """The program on a scripted problem with steps of length 1; the model, and what the program keeps."""
    trace = Trace(comm, Snapshots(0, problem.dim, np.dtype("f8"), per_step=True))
    budget = Rounds(range(len(problem.gradients)))
    cfg = powersgd.Config(**{"dtype": "float64", "step_size": 1.0, "momentum": 0.0, **config})
    return powersgd.run(comm, problem, cfg, budget, trace), budget.kept


@pytest.mark.ranks(1, 2, 3)
def test_what_is_left_out_is_kept(comm: CheckedComm) -> None:
    """After every number of steps the model and the mean memory make up the sum of all mean gradients. Nothing of the
    vector is left, and a worker's memory is of its own projection: the gradient's size, however long the run."""
    rng = np.random.default_rng([7, comm.rank])
    matrices = list(rng.standard_normal((40, 6, 9)) + 5 * comm.rank)
    for steps in (1, 2, 40):
        problem = Matrix(matrices[:steps])
        x, kept = drive(comm, problem, rank=2)
        arrived = comm.allreduce(sum(problem.gradients) - kept["e"]) / comm.size
        np.testing.assert_allclose(-x, arrived, rtol=0, atol=1e-12 * steps)
        assert not kept["e"][:6].any()
        assert kept["e"].any()
    assert np.abs(kept["e"]).max() < 100


@pytest.mark.ranks(1, 2, 3)
def test_a_mean_of_that_rank_arrives_at_once(comm: CheckedComm) -> None:
    """The mean over workers has rank 1 though no worker's matrix has; what is no orthonormal basis scales it."""
    rng = np.random.default_rng(8)
    u, v, noise = rng.standard_normal(6), rng.standard_normal(9), rng.standard_normal((comm.size, 6, 9))
    M = np.outer(u, v) + (noise - noise.mean(axis=0))[comm.rank]
    x, _ = drive(comm, Matrix([M]), rank=1)
    np.testing.assert_allclose(-x[6:].reshape(6, 9), np.outer(u, v), rtol=0, atol=1e-12)


@pytest.mark.ranks(1, 2, 3, 4)
def test_sends_two_factors_and_the_vectors(comm: CheckedComm) -> None:
    """To the byte. Digits with 20 hidden units have matrices of 64 x 20 and 20 x 10, and 30 biases."""
    outcome = execute(comm, powersgd, share(comm, "digits:hidden=20"), 10, rank=3, agreement=1000)
    up, down = 8 * (3 * (64 + 20) + 30), 8 * 3 * (20 + 10)
    due = 10 * (ring_allreduce(comm.size, up) + ring_allreduce(comm.size, down)) + ring_allreduce(comm.size, 1)
    assert outcome.sent.sum() == due[comm.rank]


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("problem", ["quadratic:dim=10", "logistic:samples=64,dim=5"])
def test_refuses_models_without_matrices(comm: CheckedComm, problem: str) -> None:
    with pytest.raises(UserError, match=r"no matrices.*allowed: --problem digits"):
        execute(comm, powersgd, share(comm, problem), 5)
