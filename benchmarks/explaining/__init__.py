"""Why a run took its time, who is to blame, and what would help: from its trace, behind `outpace explain`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from outpace.benchmarks.explaining import culprits, what_if
from outpace.benchmarks.explaining.culprits import Culprit
from outpace.benchmarks.explaining.paces import Paces, serving_s
from outpace.benchmarks.explaining.rounds import Rounds
from outpace.benchmarks.explaining.what_if import WhatIf
from outpace.benchmarks.explaining.wires import Wires, exchanges, seen
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

NEEDED = ("wall_s", "hostnames", "progress")  # attributes


@dataclass(frozen=True)
class Explanation:
    """All that `outpace explain` tells of one run. `path` has a row for each worker of a synchronous program: the
    rounds that it ended last, and its seconds on the critical path; `staleness` one for each of an asynchronous one;
    `exchanges` one for each rank and peer; `saturation` one for each rank."""

    run: Run
    synchronous: bool
    time_s: dict[str, list[float]]
    path: list[dict[str, float]]
    staleness: list[dict[str, float]]
    exchanges: list[dict[str, float]]
    saturation: list[dict[str, float | None]]
    culprits: list[Culprit]
    what_if: list[WhatIf]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        attrs = self.run.attrs
        lists = ("time_s", "path", "staleness", "exchanges", "saturation")
        plain = {name: getattr(self, name) for name in lists}
        plain |= {name: [asdict(each) for each in getattr(self, name)] for name in ("culprits", "what_if")}
        about = {name: attrs[name] for name in ("algorithm", "n_workers", "claim_class", "wall_s", "progress")}
        return {"file": str(self.run.path), **about, **plain}


def explain(path: str | Path) -> Explanation:
    """Raises UserError for a file that is no trace, and for a run of which too little is known."""
    run = Run(path)
    for name in NEEDED:
        if name not in run.attrs:
            raise UserError(f"{path}: no attribute {name}, without which the run cannot be explained")
    if not len(run.column("steps", "t_s")) or not run.attrs["wall_s"] > 0:
        raise UserError(f"{path}: no step in /steps, so nothing to explain")
    synchronous = run.attrs["progress"] == "none" and run.attrs["n_workers"] > 1
    lines: list[dict[str, float]] = []
    if synchronous:
        rounds = Rounds.of(run)
        wires = Wires.of(run, rounds.seen(run))
        named = culprits.of_rounds(run, rounds, wires)
        ifs = what_if.of_rounds(run, rounds, wires, named)
        lines = _path(rounds)
    else:
        paces = Paces.of(run)
        wires = Wires.of(run, seen(run))
        named = culprits.of_paces(run, paces, wires)
        ifs = what_if.of_paces(run, paces, wires, named)
    time_s = {name: seconds.tolist() for name, seconds in run.time_by_rank().items()}
    stale = [] if synchronous else _staleness(run)
    return Explanation(run, synchronous, time_s, lines, stale, _exchanges(run), _saturation(run, wires), named, ifs)


def _path(rounds: Rounds) -> list[dict[str, float]]:
    path = rounds.critical_path()
    lost_s, busy_s = rounds.lost_s(path), rounds.busy_s
    lines = []
    for r in range(len(busy_s)):
        last = path == r
        by_s = float(np.median(lost_s[last])) if last.any() else 0.0
        on_path_s = float(busy_s[r, last].sum())
        lines.append({"rank": r, "rounds": int(last.sum()), "busy_s": on_path_s, "lost_s": float(lost_s[last].sum())})
        lines[-1]["later_by_s"] = by_s
    return lines


def _staleness(run: Run) -> list[dict[str, float]]:
    rank, staleness = run.column("steps", "rank"), run.column("steps", "staleness")
    lines = []
    for r in range(run.attrs["n_workers"]):
        own = staleness[rank == r]
        if len(own):
            quantile = float(np.quantile(own, 0.95))
            lines.append({"rank": r, "gradients": len(own), "mean": float(own.mean()), "p95": quantile})
    return lines


def _exchanges(run: Run) -> list[dict[str, float]]:
    return [
        {"rank": rank, "peer": peer, "count": len(lasted), "median_s": float(np.median(lasted)), "sum_s": lasted.sum()}
        for (rank, peer), lasted in exchanges(run).items()
    ]


def _saturation(run: Run, wires: Wires) -> list[dict[str, float | None]]:
    """Of the time of the run, the share in which each rank's link, and each server, was busy; None where not known."""
    n, wall_s = run.attrs["n_workers"], float(run.attrs["wall_s"])
    serving = serving_s(run) / wall_s
    lines: list[dict[str, float | None]] = []
    for r, busy_s in enumerate(wires.busy_s):
        known = bool(np.isfinite(busy_s))
        lines.append(
            {
                "rank": r,
                "bytes_per_s": float(wires.busiest[r]) / wall_s,
                "link_bytes_per_s": float(wires.rate[r]) if known else None,
                "link": float(busy_s) / wall_s if known else None,
                "server": float(serving[r - n]) if r >= n else None,
            }
        )
    return lines
