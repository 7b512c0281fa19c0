"""The rules by which a verdict is given."""

import math

import pytest

from outpace.benchmarks.claims.claim import Claim, Grade, Kind, Threshold
from outpace.benchmarks.claims.statistics import Measured, exact
from outpace.benchmarks.claims.verdict import Verdict, decide

BAND = Threshold("a band", 1.0, 2.0)


def claim(kind: Kind = Kind.RANDOM, threshold: Threshold = BAND) -> Claim:
    return Claim(
        id="one",
        group="g",
        source="s",
        sentence="c",
        grade=Grade.CHOSEN,
        estimator="e",
        estimate=lambda _: 1.0,
        threshold=threshold,
        kind=kind,
    )


@pytest.mark.parametrize(
    ("interval", "p_holds", "p_fails", "verdict"),
    [
        ((1.2, 1.8), 0.01, 1.0, Verdict.HOLDS),
        ((1.0, 2.0), 0.01, 1.0, Verdict.HOLDS),  # ends included
        ((1.2, 1.8), 0.2, 1.0, Verdict.UNDECIDED),  # inside, but not shown
        ((0.9, 1.8), 0.01, 1.0, Verdict.UNDECIDED),  # straddles
        ((0.9, 2.1), 0.01, 0.01, Verdict.UNDECIDED),
        ((1.9, 2.1), 0.01, 0.01, Verdict.UNDECIDED),
        ((2.1, 2.2), 1.0, 0.01, Verdict.FAILS),
        ((0.1, 0.9), 1.0, 0.01, Verdict.FAILS),
        ((2.1, 2.2), 1.0, 0.2, Verdict.UNDECIDED),
        ((math.nan, math.nan), 1.0, 1.0, Verdict.UNDECIDED),
    ],
)
def test_of_chance(interval: tuple[float, float], p_holds: float, p_fails: float, verdict: Verdict) -> None:
    for kind in (Kind.RANDOM, Kind.TIMING):
        assert decide(claim(kind), Measured((1.5,), interval), p_holds, p_fails)[0] is verdict


def test_a_launch_without_a_number_decides_nothing() -> None:
    measured = Measured((1.5, math.inf, math.nan), (1.2, 1.8))
    assert decide(claim(), measured, 0.0, 1.0) == (Verdict.UNDECIDED, "2 of 3 launches have no finite number")
    assert decide(claim(Kind.EXACT), exact([0.0, math.nan, 1.5]), 1.0, 1.0)[0] is Verdict.FAILS


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((1.0, 1.0), Verdict.HOLDS), ((1.0, 2.5), Verdict.FAILS), ((3.0, 3.0), Verdict.FAILS)],
)
def test_exact(interval: tuple[float, float], verdict: Verdict) -> None:
    """No test is asked, and one value outside is enough."""
    assert decide(claim(Kind.EXACT), Measured((1.5,), interval), 1.0, 1.0)[0] is verdict


@pytest.mark.parametrize(
    ("threshold", "text"),
    [
        (Threshold("", most=2), "at most 2"),
        (Threshold("", least=0.5), "at least 0.5"),
        (BAND, "from 1 to 2"),
        (Threshold("", 0, 0), "0"),
    ],
)
def test_thresholds_in_words(threshold: Threshold, text: str) -> None:
    assert str(threshold) == text
