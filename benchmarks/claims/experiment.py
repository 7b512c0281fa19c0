"""The experiments of claims as points of one sweep, and what their traces say.

All traces lie in one folder, each under the id of its run: claims that need the same run share it, and a ledger that
was stopped goes on where it was.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outpace.benchmarks.claims.claim import Claim, Kind, Repetition, Scale
from outpace.benchmarks.claims.statistics import Measured, exact, repeated
from outpace.benchmarks.claims.verdict import Verdict
from outpace.benchmarks.machine import launcher, load
from outpace.benchmarks.sweeps import point as points
from outpace.benchmarks.sweeps.description import described
from outpace.benchmarks.sweeps.manifest import Sweep
from outpace.benchmarks.sweeps.point import FAILED, FINISHED, Point
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

MOVED: Final = 1.1  # a control whose largest value is more than so many times its least one has moved
TRACES: Final = "traces"


class Untested(Exception):
    """Why there is nothing to judge: the verdict, and the reason as text."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict


class Busy(Untested):
    """Because other processes took the cores."""

    def __init__(self, why: str) -> None:
        super().__init__(Verdict.NOT_NOW, f"the machine is busy: {why}")


@dataclass(frozen=True)
class Planned:
    """The points of a claim's experiment, none where it needs no launch; or why it cannot be tested here."""

    claim: Claim
    points: tuple[Point, ...] = ()
    impossible: str = ""


def plan(claim: Claim, scale: Scale, folder: Path) -> Planned:
    """Nothing is started or written."""
    if (scale.workers or 0) < claim.least_workers:
        needs = f"wants {claim.least_workers} workers or more, with a core each: --workers N, on a cluster"
        return Planned(claim, impossible=needs)
    if claim.long and scale.quick:
        return Planned(claim, impossible="takes too long for --quick")
    if not claim.sweep:
        return Planned(claim)
    table = claim.sweep(scale) | {"repetitions": scale.repetitions(claim.repetitions)}
    try:
        planned = described(table, claim.id, folder / TRACES).points
        for flags, ranks in {(launcher.value_of("--links", each.flags), each.ranks): None for each in planned}:
            launcher.behind([f"--links={flags or 'none'}"], ranks)
    except UserError as error:
        return Planned(claim, impossible=str(error))
    return Planned(claim, tuple(planned))


def together(planned: Sequence[Planned], folder: Path) -> Sweep:
    """All of them as one sweep, each point once."""
    return Sweep("claims", folder / TRACES, list({each.id: each for one in planned for each in one.points}.values()))


def measure(planned: Planned, scale: Scale) -> Measured:
    """Raises Untested."""
    claim = planned.claim
    if planned.impossible:
        raise Untested(Verdict.NOT_HERE, planned.impossible)
    repetitions = _repetitions(planned, scale)
    if claim.kind is Kind.TIMING:
        _refuse_busy(claim, repetitions)
    try:
        values = [_number(claim, one) for one in repetitions]
    except UserError as error:
        raise Untested(Verdict.NOT_HERE, str(error)) from None
    return exact(values) if claim.kind is Kind.EXACT else repeated(values, claim.threshold)


def _number(claim: Claim, one: Repetition) -> float:
    """The claim's number of a repetition; NaN where it has none, such as the logarithm of a model that has diverged."""
    try:
        return claim.estimate(one)
    except (ArithmeticError, ValueError):
        return math.nan


def _repetitions(planned: Planned, scale: Scale) -> list[Repetition]:
    if not planned.claim.sweep:  # which takes a moment, however large the scale
        return [Repetition(seed, scale) for seed in range(planned.claim.repetitions)]
    found: dict[int, list[tuple[Point, Run]]] = {}
    missing = 0
    for each in planned.points:
        standing = points.standing(each)
        if standing.state == FAILED:
            raise Untested(Verdict.NOT_HERE, f"{each.label}: {standing.reason}")
        if standing.state not in FINISHED:
            missing += 1
            continue
        run = Run(each.target)
        found.setdefault(run.attrs["seed"], []).append((each, run))
    if missing:
        raise Untested(Verdict.NOT_NOW, f"{missing} of {len(planned.points)} runs are not there yet")
    return [Repetition(seed, scale, tuple(launches)) for seed, launches in sorted(found.items())]


def _refuse_busy(claim: Claim, repetitions: Sequence[Repetition]) -> None:
    """Raise Busy where other processes kept the cores busy, or what should not move has moved."""
    most = max(_load(run) for one in repetitions for run in one.runs)
    if most > load.SLACK:
        raise Busy(f"other processes kept {most:.1f} cores busy")
    if claim.control:
        values = [claim.control(one) for one in repetitions]
        moved = max(values) / min(values) if min(values) > 0 else math.inf
        if moved > MOVED:
            raise Busy(f"the control moved by {moved - 1:.0%}")


def _load(run: Run) -> float:
    """Cores that others kept busy just before the run."""
    return float(run.attrs.get("load", 0.0))


def busy(planned: Sequence[Planned], scale: Scale) -> list[Point]:
    """The points of timings that were made on a busy machine."""
    found: dict[str, Point] = {}
    for one in planned:
        if one.claim.kind is Kind.TIMING:
            try:
                measure(one, scale)
            except Busy:
                found |= {each.id: each for each in one.points}
            except Untested:
                pass
    return list(found.values())
