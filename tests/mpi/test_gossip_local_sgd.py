"""Gossip local SGD and NoLoCo beyond the contract: pairs, and what averaging keeps."""

from typing import Any

import numpy as np
import pytest
from harness import CheckedComm, RandomStart, execute, share

from outpace.algorithms import gossip_local_sgd, local_sgd
from outpace.benchmarks.conformance.contracts import PROBLEM


@pytest.mark.parametrize("outer", ["none", "nesterov"])
def test_averaging_alone_keeps_the_sum_and_spreads(comm: CheckedComm, outer: str) -> None:
    """With step size 0, from different starts; also where one of an odd number has no partner."""
    problem = RandomStart(share(comm, PROBLEM), comm.rank)
    x = execute(comm, gossip_local_sgd, problem, 60, period=2, outer=outer, step_size=0.0).x
    before, after = (np.stack(comm.allgather(models)) for models in (problem.x0(), x))
    assert np.abs(after.sum(axis=0) - before.sum(axis=0)).max() <= 1e-12
    assert comm.size == 1 or np.var(after, axis=0).sum() < 0.05 * np.var(before, axis=0).sum()


@pytest.mark.ranks(2)
@pytest.mark.parametrize("config", [{}, {"outer": "nesterov", "outer_step_size": 0.7}], ids=["mean", "noloco"])
def test_two_workers_are_a_pair_in_every_round(comm: CheckedComm, config: dict[str, Any]) -> None:
    """The pair's mean is that of all: Local SGD. And two models of NoLoCo that are equal stay so."""
    problem = share(comm, PROBLEM)
    x = execute(comm, gossip_local_sgd, problem, 24, period=4, **config).x
    if not config:
        assert np.abs(x - execute(comm, local_sgd, problem, 24, period=4).x).max() <= 1e-12
    first, second = comm.allgather(x)
    assert np.abs(first - second).max() <= 1e-12


@pytest.mark.ranks(3, 4)
def test_partners_are_each_others_and_change(comm: CheckedComm) -> None:
    """A run's messages are to partners of the same pairs, of which there are several over the rounds."""
    outcome = execute(comm, gossip_local_sgd, share(comm, PROBLEM), 40, period=2)
    events = outcome.events[outcome.events["nbytes"] > 0]
    partners = np.full(20, comm.rank)
    partners[events["step"] // 2] = events["peer"]
    everyone = np.stack(comm.allgather(partners))
    assert all(np.array_equal(np.arange(comm.size), order[order]) for order in everyone.T)
    assert len({tuple(order) for order in everyone.T}) == 3  # of 3 and of 4 workers there are three pairings
    assert set(events["step"] % 2) <= {1}
