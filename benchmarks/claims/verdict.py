"""The verdict on a claim."""

import math
from dataclasses import dataclass
from enum import StrEnum

from outpace.benchmarks.claims.claim import Claim, Kind
from outpace.benchmarks.claims.statistics import LEVEL, Measured
from outpace.benchmarks.sweeps.point import Point


class Verdict(StrEnum):
    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"
    NOT_HERE = "cannot be tested here"
    NOT_NOW = "cannot be tested now"


@dataclass(frozen=True)
class Outcome:
    """What became of a claim. Without `measured` the reason says why."""

    claim: Claim
    verdict: Verdict
    reason: str = ""
    measured: Measured | None = None
    points: tuple[Point, ...] = ()


def decide(claim: Claim, measured: Measured, p_holds: float, p_fails: float) -> tuple[Verdict, str]:
    """The verdict on what was measured, and its reason; the p are corrected over the ledger.

    An exact number lies within the threshold or not. Of others the whole interval and the test must say the same.
    """
    low, high = measured.interval
    inside = low in claim.threshold and high in claim.threshold
    outside = high < claim.threshold.least or low > claim.threshold.most
    if claim.kind is Kind.EXACT:
        return (Verdict.HOLDS, "exact") if inside else (Verdict.FAILS, "exact")
    lost = sum(not math.isfinite(value) for value in measured.values)
    if lost:
        return Verdict.UNDECIDED, f"{lost} of {len(measured.values)} launches have no finite number"
    if inside and p_holds <= LEVEL:
        return Verdict.HOLDS, f"p = {p_holds:.2g} after Holm"
    if outside and p_fails <= LEVEL:
        return Verdict.FAILS, f"p = {p_fails:.2g} after Holm"
    if not (inside or outside):
        return Verdict.UNDECIDED, "the interval straddles the threshold"
    return Verdict.UNDECIDED, f"too few or too scattered: p = {p_holds if inside else p_fails:.2g} after Holm"
