"""The ledger: all claims, and the way from some of them to verdicts."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from outpace.benchmarks.claims import (
    ad_psgd,
    d2,
    experiment,
    external,
    katyusha_x,
    late_workers,
    networks,
    pace,
    report,
    sign_sgd,
)
from outpace.benchmarks.claims.claim import Claim, Kind, Scale
from outpace.benchmarks.claims.experiment import Planned, Untested
from outpace.benchmarks.claims.statistics import Measured, holm
from outpace.benchmarks.claims.verdict import Outcome, Verdict, decide
from outpace.benchmarks.sweeps import runner
from outpace.comm.errors import UserError

CLAIMS: Final[dict[str, Claim]] = {
    claim.id: claim
    for module in (ad_psgd, pace, sign_sgd, katyusha_x, d2, late_workers, networks, external)
    for claim in module.CLAIMS
}
FAILED: Final = 1  # exit code of a sweep some points of which failed
COLOURS: Final = {Verdict.HOLDS: "green", Verdict.FAILS: "red", Verdict.UNDECIDED: "yellow"}


def chosen(ids: Sequence[str]) -> list[Claim]:
    """The claims with these ids, or all. Raises UserError."""
    for unknown in [each for each in ids if each not in CLAIMS]:
        raise UserError(f"unknown claim '{unknown}'; `outpace claims --list` lists them")
    return [claim for claim in CLAIMS.values() if not ids or claim.id in ids]


def listed(claims: Sequence[Claim]) -> None:
    """Print the claims and their thresholds."""
    shown = Table("id", "claim", "what is measured", "threshold", "because", title="Thresholds, fixed beforehand")
    for claim in claims:
        number = f"{claim.threshold} ({claim.grade})"
        shown.add_row(claim.id, claim.sentence, claim.estimator, number, claim.threshold.reason)
    Console(width=max(140, Console().width), highlight=False).print(shown)
    sys.stdout.flush()  # before the first result, also in a log


def verify(
    ids: Sequence[str],
    scale: Scale,
    folder: Path,
    slurm: bool = False,
    retry_failed: bool = False,
    retry_busy: bool = False,
) -> int:
    """Print the thresholds, run what is missing, here or under Slurm, print the verdicts, write the reports.

    Exit codes: 0, whatever the verdicts; those of `runner.run_here` where a signal ended it early.
    """
    claims = chosen(ids)
    listed(claims)
    planned = [experiment.plan(claim, scale, folder) for claim in claims]
    sweep = experiment.together(planned, folder)
    for point in experiment.busy(planned, scale) if retry_busy else ():
        point.target.unlink(missing_ok=True)
    if sweep.points:
        run = runner.submit(sweep, retry_failed) if slurm else runner.run_here(sweep, retry_failed, requeue=False)
        if run not in (0, FAILED):
            return run
    outcomes = judge(planned, scale)
    _print(outcomes)
    for path in report.write(outcomes, scale, folder):
        print(f"wrote {path}")
    return 0


def judge(planned: Sequence[Planned], scale: Scale) -> list[Outcome]:
    """The verdicts by the traces that are there."""
    measured: dict[str, Measured] = {}
    untested: dict[str, tuple[Verdict, str]] = {}
    for one in planned:
        try:
            measured[one.claim.id] = experiment.measure(one, scale)
        except Untested as why:
            untested[one.claim.id] = why.verdict, str(why)
    by_chance = [claim_id for claim_id in measured if CLAIMS[claim_id].kind is not Kind.EXACT]
    family = sum(claim.kind is not Kind.EXACT for claim in CLAIMS.values())
    p_holds, p_fails = (
        dict(zip(by_chance, holm([getattr(measured[each], name) for each in by_chance], family), strict=True))
        for name in ("p_holds", "p_fails")
    )
    outcomes = []
    for one in planned:
        claim = one.claim
        if claim.id in untested:
            outcomes.append(Outcome(claim, *untested[claim.id], points=one.points))
        else:
            found = measured[claim.id]
            verdict, reason = decide(claim, found, p_holds.get(claim.id, 1.0), p_fails.get(claim.id, 1.0))
            outcomes.append(Outcome(claim, verdict, reason, found, one.points))
    return outcomes


def _print(outcomes: Sequence[Outcome]) -> None:
    shown = Table("id", "threshold", "measured (95 %)", "verdict", "because", title="Verdicts")
    for outcome in outcomes:
        cells = outcome.claim.id, str(outcome.claim.threshold), report.measured(outcome), str(outcome.verdict)
        shown.add_row(*cells, outcome.reason, style=COLOURS.get(outcome.verdict))
    Console(width=max(140, Console().width), highlight=False).print(shown)
