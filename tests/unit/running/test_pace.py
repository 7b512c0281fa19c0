"""What the paced problem tells the problem behind it."""

from typing import Any

import numpy as np
from harness import CheckedComm, execute, shares
from mpi4py import MPI

from outpace.algorithms import allreduce_sgd


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
