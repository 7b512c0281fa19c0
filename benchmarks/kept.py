"""Launches whose traces are kept: a study that was cut short goes on where it was."""

from collections.abc import Sequence
from pathlib import Path

from outpace.benchmarks import checkpoint, figures, launcher
from outpace.benchmarks.reading import Run
from outpace.comm.spec import UserError


def trace(out: Path, program: str, ranks: int, *flags: str) -> Run:
    """The run of `program` that leaves `out`, made now, or from its checkpoint on, unless it is there.

    One that diverges is a result, too. Raises UserError where it fails.
    """
    if not out.exists() or Run(out).attrs["status"] == "partial":
        out.parent.mkdir(parents=True, exist_ok=True)
        anew = [] if checkpoint.common(out, ranks) else ["--overwrite"]
        ended = launcher.launch(f"outpace.algorithms.{program}", ranks, [*flags, "--out", str(out), *anew])
        if ended.code and not (out.exists() and Run(out).attrs["status"] == "diverged"):
            raise UserError(launcher.explain(ended, out.parent) or f"{program} ended with exit code {ended.code}")
    return Run(out)


def draw(name: str, runs: Sequence[Run], out: Path) -> None:
    figures.draw(name, [run.path for run in runs], out)
    print(f"wrote {out}")
