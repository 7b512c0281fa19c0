"""The statistics of claims, against numbers worked out by hand and by other ways."""

import math

import numpy as np
import pytest
from scipy import special

from outpace.benchmarks.claims.claim import Threshold
from outpace.benchmarks.claims.statistics import LEVEL, exact, holm, interval, repeated, slope


@pytest.mark.parametrize(
    ("p_values", "family", "corrected"),
    [
        ([0.01], 1, [0.01]),
        ([0.01], 30, [0.3]),  # the 29 others are not known
        ([0.01, 0.02, 0.04], 3, [0.03, 0.04, 0.04]),
        ([0.04, 0.01, 0.02], 3, [0.04, 0.03, 0.04]),  # in whatever order
        ([0.01, 0.013, 0.5], 3, [0.03, 0.03, 0.5]),  # 2 x 0.013 is less than what came before: never less
        ([0.01, 0.01, 0.3], 4, [0.04, 0.04, 0.6]),
        ([0.6, 0.7], 2, [1.0, 1.0]),
        ([0.0, 1.0], 2, [0.0, 1.0]),
        ([], 5, []),
    ],
)
def test_holm_by_hand(p_values: list[float], family: int, corrected: list[float]) -> None:
    assert holm(p_values, family) == pytest.approx(corrected)


def test_holm_keeps_the_level_over_the_family() -> None:
    """Of 20 true hypotheses, 4,000 times, one or more is rejected in 5 % of the times; without correction in 64 %."""
    p_values = np.random.default_rng(0).random((4000, 20))
    wrong = np.mean([min(holm(list(row), 20)) <= LEVEL for row in p_values])
    assert wrong == pytest.approx(LEVEL, abs=0.015)
    assert (p_values.min(axis=1) <= LEVEL).mean() > 0.5


def student(t: float, df: int) -> float:
    """P(T > t), by the incomplete beta function."""
    tail = 0.5 * special.betainc(df / 2, 0.5, df / (df + t * t))
    return float(tail if t > 0 else 1 - tail)


@pytest.mark.parametrize(
    ("threshold", "holds", "fails"),
    [
        (Threshold("", least=2.0), [(2.0, 1)], [(2.0, -1)]),
        (Threshold("", most=4.0), [(4.0, -1)], [(4.0, 1)]),
        (Threshold("", least=2.0, most=4.0), [(2.0, 1), (4.0, -1)], [(2.0, -1), (4.0, 1)]),
    ],
)
def test_one_sided_tests(threshold: Threshold, holds: list[tuple[float, int]], fails: list[tuple[float, int]]) -> None:
    """By Student's distribution, of another source. In a band the worse of two, out of one the better."""
    values = [2.5, 3.0, 3.1, 2.8, 3.6]
    mean, error = np.mean(values), np.std(values, ddof=1) / math.sqrt(5)

    def p(bound: float, side: int) -> float:
        return student(side * (mean - bound) / error, 4)

    found = repeated(values, threshold)
    assert found.value == 3.0
    assert found.p_holds == pytest.approx(max(p(*one) for one in holds))
    assert found.p_fails == pytest.approx(min(p(*one) for one in fails))


def test_the_interval_is_of_the_median() -> None:
    """An outlier moves the mean's interval, not the median's; the interval covers the median of what is drawn from in
    about 95 of 100 samples of 15."""
    assert interval([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1000.0])[1] <= 1.7
    rng = np.random.default_rng(1)
    found = [interval(list(rng.exponential(size=15))) for _ in range(100)]
    assert 85 <= sum(low <= math.log(2) <= high for low, high in found) <= 100
    assert interval([2.0, 2.0, 2.0]) == (2.0, 2.0)


@pytest.mark.parametrize("values", [[1.0], [1.0, math.inf, 1.0], [1.0, math.nan, 1.0]])
def test_one_launch_or_one_that_never_arrived_proves_nothing(values: list[float]) -> None:
    found = repeated(values, Threshold("", most=2.0))
    assert found.p_holds == found.p_fails == 1.0


def test_launches_that_agree_leave_no_doubt() -> None:
    found = repeated([1.0, 1.0, 1.0], Threshold("", most=2.0))
    assert (found.p_holds, found.p_fails, found.interval) == (0.0, 1.0, (1.0, 1.0))
    assert exact([1.0, 3.0]).interval == (1.0, 3.0)


def test_slope() -> None:
    assert slope([1, 10, 100], [5, 0.5, 0.05]) == pytest.approx(-1)
