"""Local SGD and DiLoCo beyond the contract: its special cases, and the average that is under way."""

from typing import Any

import numpy as np
import pytest
from harness import CheckedComm, execute, share

from outpace.algorithms import allreduce_sgd, local_sgd
from outpace.benchmarks.conformance.contracts import PROBLEM
from outpace.benchmarks.conformance.row import ring_allreduce

STEPS = 24


@pytest.mark.parametrize(
    "config", [{}, {"rule": "momentum", "step_size": 0.05, "weight_decay": 0.1}], ids=["sgd", "momentum"]
)
def test_with_an_average_every_step_it_is_allreduce_sgd(comm: CheckedComm, config: dict[str, Any]) -> None:
    """Of all linear rules: the mean of the steps is the step of the mean."""
    problem = share(comm, PROBLEM)
    averaged = execute(comm, local_sgd, problem, STEPS, period=1, **config).x
    same = execute(comm, allreduce_sgd, problem, STEPS, **config).x
    assert np.abs(averaged - same).max() <= 1e-12


def test_a_plain_outer_step_is_the_mean(comm: CheckedComm) -> None:
    """DiLoCo with step size 1 and no momentum is Local SGD."""
    problem = share(comm, PROBLEM)
    plain, outer = (
        execute(comm, local_sgd, problem, STEPS, period=5, **config).x
        for config in ({}, {"outer": "nesterov", "outer_step_size": 1.0, "outer_momentum": 0.0})
    )
    assert np.abs(plain - outer).max() <= 1e-12


def test_models_are_equal_after_an_average_only(comm: CheckedComm) -> None:
    """In between every worker trains alone, by gradients of its own."""
    problem = share(comm, PROBLEM)
    for steps, equal in ((4, True), (7, False), (8, True)):
        models = np.stack(comm.allgather(execute(comm, local_sgd, problem, steps, period=4).x))
        spread = np.abs(models - models[0]).max()
        assert bool(spread == 0) is (equal or comm.size == 1), steps


@pytest.mark.parametrize("overlap", [False, True])
def test_an_average_is_sent_and_told_of_in_every_round(comm: CheckedComm, overlap: bool) -> None:
    """In the step that ends the round, each of them once, also where one is waited for a round later."""
    outcome = execute(comm, local_sgd, share(comm, PROBLEM), STEPS, agreement=1000, period=5, overlap=overlap)
    sent = outcome.sent.sum() - ring_allreduce(comm.size, 1)[comm.rank]  # but for the agreement on the end
    events = outcome.events[outcome.events["nbytes"] > 0]
    if comm.size > 1:
        assert events["step"].tolist() == [4, 9, 14, 19]
    assert sent == events["nbytes"].sum() == 4 * ring_allreduce(comm.size, 80)[comm.rank]
