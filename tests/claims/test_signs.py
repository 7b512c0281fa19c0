"""signSGD, Signum and majority vote (ICML 2018, ICLR 2019): as good as Adam when tuned, and hard to lie to."""

import statistics
from pathlib import Path

import pytest

from outpace.benchmarks.studies.flippers import flippers
from outpace.benchmarks.studies.signum import signum

pytestmark = pytest.mark.claim
WORKED_OUT = {0: 0.75, 4: 1.1, 8: 1.9, 10: 3.7, 12: 25.0, 13: 142.0, 14: 3500.0}  # of 27 workers


def test_signum_is_as_good_as_adam(tmp_path: Path) -> None:
    """Digits, perceptron: the median over 5 seeds of final losses paired by seed, both tuned with another seed."""
    assert statistics.median(signum(tmp_path)["Signum"]) <= 1.2


def test_the_majority_outvotes_liars(tmp_path: Path) -> None:
    """27 ranks: the final loss against the number of sign-flippers. To 15 %: ours, worked out beforehand, are from a
    start of 500 in the mean, whose standard deviation is 22, and this one is at 446. The paper has no such numbers."""
    for liars, loss in flippers(tmp_path).items():
        assert loss == pytest.approx(WORKED_OUT[liars], rel=0.15)
