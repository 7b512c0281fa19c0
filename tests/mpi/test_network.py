"""What a run finds out about its network, on real ranks."""

import itertools

import pytest
from harness import CheckedComm

from outpace.benchmarks.machine import network
from outpace.comm.meter import MeteredComm


def test_every_pair_is_measured_and_nothing_is_counted(comm: CheckedComm) -> None:
    """By its lower rank; past the meter."""
    metered = MeteredComm(comm)
    rows = network.measure(metered, seed=0)
    assert not metered.meter.messages.any()
    ranks, rtt_s, bytes_per_s = zip(*rows, strict=True) if rows else ((), (), ())
    pairs = list(itertools.chain.from_iterable(comm.allgather([(comm.rank, b) for b in ranks])))
    assert sorted(pairs) == list(itertools.combinations(range(comm.size), 2))
    assert all(0 < s < 60 for s in rtt_s)
    assert all(1 < rate < 1e12 for rate in bytes_per_s)


@pytest.mark.ranks(3, 4)
def test_a_ring_and_a_matching_leave_nobody_waiting(comm: CheckedComm, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of more ranks than a test can start."""
    monkeypatch.setattr(network, "MOST_RANKS", 2)
    mine = [(comm.rank, b) for b, *_ in network.measure(comm, seed=0)]
    pairs = list(itertools.chain.from_iterable(comm.allgather(mine)))
    assert sorted(pairs) == sorted(itertools.chain.from_iterable(network.schedule(comm.size, seed=0)))
    assert {(rank, rank + 1) for rank in range(comm.size - 1)} <= set(pairs)
