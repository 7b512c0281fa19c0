"""The laws of pace beside which programs are put; 10 ms of compute, 8 workers."""

import numpy as np
import pytest

from outpace.benchmarks.running import stragglers
from outpace.benchmarks.running.stragglers import Delays
from outpace.benchmarks.studies.opponents import ENTRANTS, law

N, COMPUTE_S, ROUNDS = 8, 0.01, 400


def paces(level: str) -> np.ndarray:
    """Seconds of each gradient, shape (n, rounds)."""
    workers = [Delays(stragglers.parse(level), 0, rank) for rank in range(N)]
    return np.array([[COMPUTE_S + each.seconds(k, COMPUTE_S) for k in range(ROUNDS)] for each in workers])


@pytest.mark.parametrize("waits", sorted({entrant.waits for entrant in ENTRANTS.values()}))
def test_equal_workers_make_a_gradient_each_in_the_compute_time(waits: str) -> None:
    # Of equal workers the first m end together with the last one, which takes part in the next round.
    n = N - 1 if waits == "first" else N
    assert law(waits, "none", N, COMPUTE_S, ROUNDS) == pytest.approx(n / COMPUTE_S, rel=0.02)


@pytest.mark.parametrize(
    ("waits", "rate"),
    [("all", 80), ("neighbours", 80), ("one-peer", 80), ("rounds", 80), ("pairs", 80), ("nobody", 710), ("first", 700)],
)
def test_one_slow_worker_holds_up_whom_is_waited_for(waits: str, rate: float) -> None:
    assert law(waits, "fixed:rank=0,factor=10", N, COMPUTE_S, ROUNDS) == pytest.approx(rate, rel=0.03)


def test_random_delays_cost_less_the_fewer_wait_for_one_another() -> None:
    level = "lognormal:sigma=1"
    busy = paces(level)
    found = {waits: law(waits, level, N, COMPUTE_S, ROUNDS) for waits in ("all", "neighbours", "rounds", "nobody")}
    assert found["all"] == pytest.approx(N * ROUNDS / busy.max(axis=0).sum())
    assert found["rounds"] == pytest.approx(N * ROUNDS / busy.reshape(N, -1, 8).sum(axis=2).max(axis=0).sum())
    assert found["nobody"] == pytest.approx((1 / busy.mean(axis=1)).sum())
    assert found["all"] < found["neighbours"] < found["nobody"]
    assert found["all"] < found["rounds"] < found["nobody"]
