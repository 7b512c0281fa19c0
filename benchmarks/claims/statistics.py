"""The statistics of a claim: launches are repeated whole, and one number comes from each repetition.

The value is the median. Its interval is a bootstrap's, 95 %. Two one-sided t-tests of the repetitions against the
threshold, Student's, say how well the numbers lie on the side of the claim, and on the other. Each of the two families
of tests, one test for each claim of the ledger, is corrected by Holm: with 95 % no claim at all is said to hold, or to
fail, by chance. Claims that are not tested this time count as if their p were 1, so a verdict does not hang on which
others were asked for.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import stats

from outpace.benchmarks.claims.claim import Threshold

LEVEL: Final = 0.05
RESAMPLES: Final = 9999


@dataclass(frozen=True)
class Measured:
    """What was measured of a claim."""

    values: tuple[float, ...]  # one for each repetition
    interval: tuple[float, float]  # of the median
    p_holds: float = 1.0  # of values like these if the claim did not hold; not corrected
    p_fails: float = 1.0  # if it did

    @property
    def value(self) -> float:
        return float(np.median(self.values))


def exact(values: Sequence[float]) -> Measured:
    """Of numbers without chance: what lies between them all."""
    return Measured(tuple(values), _ends(values))


def repeated(values: Sequence[float], threshold: Threshold) -> Measured:
    """Of numbers with chance; those that are not finite prove nothing."""
    if len(values) < 2 or not np.isfinite(values).all():
        return Measured(tuple(values), _ends(values))
    above, below = (_p(values, bound, side) for bound, side in ((threshold.least, 1), (threshold.most, -1)))
    under, over = (_p(values, bound, side) for bound, side in ((threshold.least, -1), (threshold.most, 1)))
    # Within a band both must be shown; out of it one of the two.
    return Measured(tuple(values), interval(values), max(above, below), min(under, over))


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """The least and the greatest, both NaN where one of the values is."""
    return float(np.min(values)), float(np.max(values))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median, by scipy's bootstrap, with one seed for all."""
    if min(values) == max(values):
        return values[0], values[0]
    found = stats.bootstrap(
        (np.asarray(values),), np.median, n_resamples=RESAMPLES, confidence_level=1 - LEVEL, method="percentile", rng=0
    ).confidence_interval
    return float(found.low), float(found.high)


def _p(values: Sequence[float], bound: float, side: int) -> float:
    """Of a t-test that the values lie above (side 1) or below (-1) the bound."""
    if math.isinf(bound):
        return 0.0 if bound * side < 0 else 1.0
    if min(values) == max(values):
        return 0.0 if (values[0] - bound) * side > 0 else 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of values that are all but alike
        return float(stats.ttest_1samp(values, bound, alternative="greater" if side > 0 else "less").pvalue)


def holm(p_values: Sequence[float], family: int) -> list[float]:
    """Each p corrected by Holm's step-down method, for so many tests in all.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03], 3)]
    [0.03, 0.06, 0.06]
    """
    corrected, largest = [1.0] * len(p_values), 0.0
    for rank, k in enumerate(sorted(range(len(p_values)), key=lambda k: p_values[k])):
        largest = max(largest, min(1.0, (family - rank) * p_values[k]))
        corrected[k] = largest
    return corrected


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of log y over log x, by least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
