"""One slow worker of eight: the claim that AD-PSGD was made for, on real ranks with slept compute.

Rates are gradients applied within the time budget, over that time: while all workers are at work.
"""

import statistics
from collections.abc import Callable

import numpy as np
import pytest

from outpace.benchmarks.trace.run import Run
from outpace.benchmarks.trace.schema import KIND

pytestmark = pytest.mark.claim
N, COMPUTE_S = 8, 0.01
Launch = Callable[..., Run]


def rate(run: Run) -> float:
    seconds = float(run.config["time_budget"])
    return int((run.column("steps", "t_s") <= seconds).sum()) / seconds


@pytest.fixture(scope="module")
def measure(launch: Launch) -> Launch:
    def measured(program: str, stragglers: str, seconds: float) -> Run:
        return launch(program, N, "--compute-time", COMPUTE_S, "--stragglers", stragglers, "--time-budget", seconds)

    return measured


@pytest.fixture(scope="module")
def homogeneous(measure: Launch) -> float:
    """AD-PSGD's rate with equal workers: the median of three runs."""
    return statistics.median(rate(measure("ad_psgd", "none", 6)) for _ in range(3))


def test_homogeneous_rate(homogeneous: float) -> None:
    print(f"homogeneous: {homogeneous:.0f} gradients/s of {N / COMPUTE_S:.0f}")
    assert homogeneous >= 0.9 * N / COMPUTE_S


@pytest.mark.parametrize("slow", range(N))
def test_ten_times_slower(measure: Launch, homogeneous: float, slow: int) -> None:
    """Ideal: (7 + 1/10)/8 = 0.8875."""
    run = measure("ad_psgd", f"fixed:rank={slow},factor=10", 6)
    share = rate(run) / homogeneous
    print(f"rank {slow} slowed 10x: {share:.3f} of the homogeneous rate")
    assert share >= 0.85
    rank, kind = run.column("events", "rank"), run.column("events", "kind")
    gradients = np.bincount(run.column("steps", "rank"), minlength=N)
    exchanges = np.bincount(rank[kind == KIND["exchange"]], minlength=N)
    print(f"exchanges per gradient of the active workers: {exchanges[1::2].sum() / gradients[1::2].sum():.3f}")
    assert exchanges[1::2].sum() >= 0.95 * gradients[1::2].sum()
    assert exchanges[::2].sum() == exchanges[1::2].sum()


@pytest.mark.parametrize("slow", range(N))
def test_hundred_times_slower(measure: Launch, homogeneous: float, slow: int) -> None:
    """Ideal: (7 + 1/100)/8 = 0.876."""
    share = rate(measure("ad_psgd", f"fixed:rank={slow},factor=100", 10)) / homogeneous
    print(f"rank {slow} slowed 100x: {share:.3f} of the homogeneous rate")
    assert share >= 0.8


@pytest.mark.parametrize("program", ["allreduce_sgd", "d_psgd"])
def test_synchronous_programs_fall_to_a_tenth(measure: Launch, program: str) -> None:
    share = rate(measure(program, "fixed:rank=3,factor=10", 10)) / rate(measure(program, "none", 6))
    print(f"{program}: {share:.3f} of its homogeneous rate")
    assert 0.08 <= share <= 0.14
