"""Launches whose traces are kept: a study that was cut short goes on where it was."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from outpace.benchmarks import figures
from outpace.benchmarks.machine import launcher
from outpace.benchmarks.trace import checkpoint
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

RUNS: Final = Path("results/runs")
# Flags by which n workers cost one process little more than their gradients do, where it is asked what they learn, not
# how fast: messages are as short as a packet.
SIMULATED: Final = {"simulate": "10gbit", "compute-time": 0.01, "wire-bytes": 8192}


def words(flags: Mapping[str, object]) -> list[str]:
    """Flags as words of a command line."""
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def trace(out: Path, program: str, workers: int, *flags: str) -> Run:
    """The run that leaves `out`, on as many ranks as its workers and servers need: made now, or from its checkpoint on,
    unless it is there.

    One that diverges is a result, too. Raises UserError where it fails, and at a signal, even if that finds it done.
    """
    if not out.exists() or Run(out).attrs["status"] == "partial":
        out.parent.mkdir(parents=True, exist_ok=True)
        module = f"outpace.algorithms.{program}"
        ranks = workers + importlib.import_module(module).Config.servers
        anew = [] if checkpoint.common(out, ranks) else ["--overwrite"]
        ended = launcher.launch(module, ranks, [*flags, "--out", str(out), *anew])
        if ended.told or (ended.code and not (out.exists() and Run(out).attrs["status"] == "diverged")):
            raise UserError(launcher.explain(ended, out.parent) or launcher.said(program, ended))
    return Run(out)


def draw(name: str, runs: Sequence[Run], out: Path) -> None:
    figures.draw(name, [run.path for run in runs], out)
    print(f"wrote {out}")
