"""Which pairs are measured when, and what a rate is taken from."""

import itertools

import numpy as np
import pytest

from outpace.benchmarks.machine.network import CHUNKS, MOST_RANKS, Pair, interval, schedule


def pairs_of(rounds: list[list[Pair]]) -> list[Pair]:
    """All pairs, each of which has its lower rank first; in no round has a rank two."""
    for pairs in rounds:
        ranks = [rank for pair in pairs for rank in pair]
        assert len(ranks) == len(set(ranks))
    pairs = list(itertools.chain.from_iterable(rounds))
    assert all(a < b for a, b in pairs)
    return pairs


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9, MOST_RANKS - 1, MOST_RANKS])
def test_all_pairs_meet_once_in_as_few_rounds_as_can_be(n: int) -> None:
    rounds = schedule(n, seed=0)
    assert sorted(pairs_of(rounds)) == list(itertools.combinations(range(n), 2))
    assert len(rounds) == (0 if n == 1 else n - 1 + n % 2)


@pytest.mark.parametrize("n", [MOST_RANKS + 1, MOST_RANKS + 2, 1001])
def test_of_many_ranks_a_ring_and_a_random_matching(n: int) -> None:
    ring = {(rank, rank + 1) for rank in range(n - 1)} | {(0, n - 1)}
    drawn = []
    for seed in (0, 0, 1):
        pairs = pairs_of(schedule(n, seed))
        assert len(set(pairs)) == len(pairs)
        assert ring <= set(pairs)
        drawn.append(sorted(set(pairs) - ring))
        assert n // 2 - 9 < len(drawn[-1]) <= n // 2  # without those of the ring, two in the mean
        assert len(np.unique(drawn[-1])) == 2 * len(drawn[-1])
    assert drawn[0] == drawn[1] != drawn[2]


# The exchange starts at 0 and a chunk takes 1.
STEADY = [float(k) for k in range(CHUNKS + 1)]
ARRIVALS = {
    "steady": STEADY,
    "a burst at once": [max(0.0, t - 6) for t in STEADY],
    "seen late": [9.0 if 3 < t < 9 else t for t in STEADY],
    "the last one is seen late": [*STEADY[:-1], STEADY[-1] + 4],
    "all are seen when all have come": [0.0, *(STEADY[-1] for _ in range(CHUNKS))],
    "every other one is late": [t + 0.8 * (k % 2) for k, t in enumerate(STEADY)],
    "a burst, and some are late": [8.0 if 9 < t < 14 else max(0.0, t - 6) for t in STEADY],
}


@pytest.mark.parametrize("t_s", ARRIVALS.values(), ids=ARRIVALS)
def test_an_interval_is_that_of_what_came_steadily(t_s: list[float]) -> None:
    assert interval(t_s) == pytest.approx(1.0, rel=0.05)
