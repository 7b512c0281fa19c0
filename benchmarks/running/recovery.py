"""`outpace show --recover`: the parts of killed runs become traces."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mpi4py import MPI

from outpace.benchmarks import problems
from outpace.benchmarks.problems import Setting
from outpace.benchmarks.running.finish import Course, finish
from outpace.benchmarks.trace import checkpoint
from outpace.benchmarks.trace.archive import Parts
from outpace.benchmarks.trace.parts import models_path, running
from outpace.benchmarks.trace.snapshots import SLOT_S, Snapshots
from outpace.comm import prox
from outpace.comm.errors import UserError
from outpace.comm.layout import Layout


def recover(folder: Path) -> Iterator[Path]:
    """Turn the parts of every killed run in `folder` into traces with status "partial"; each file when it is written.

    Runs that still go on are left alone, and so are parts beside a checkpoint, with which the run can go on. Raises
    UserError where there is nothing to recover and, after all that can be recovered, where something cannot.
    """
    targets = sorted({Path(str(path).rpartition(".part-")[0]) for path in folder.glob("*.part-0")})
    killed = [target for target in targets if not running(target)]
    if not killed:
        going = f"; {len(targets)} run(s) still go on" if targets else ""
        raise UserError(f"{folder}: no parts of a killed run here{going}")
    errors = []
    for target in killed:
        try:
            _recover(target)
        except UserError as error:
            errors.append(str(error))
        else:
            yield target
    if errors:
        raise UserError("; ".join(errors))


def _recover(target: Path) -> None:
    """The problem is built again from the recorded configuration, all shares in this process, to evaluate the snapshots
    that all ranks have."""
    resumable = bool(checkpoint.generations(target, 0))
    if target.exists() and not resumable:
        raise UserError(f"{target} exists beside its parts: remove the one that is not wanted")
    parts = Parts.read(target)
    header = parts.headers[0]
    attributes = header["attributes"]
    n, dim, dtype = attributes["n_workers"], attributes["dim"], np.dtype(attributes["dtype"])
    config = json.loads(attributes["config"])
    layout = Layout(n, config.get("servers", 0))
    setting = Setting(MPI.COMM_SELF, range(n), n, config["split"], config["seed"], attributes["dtype"], np)
    shares = problems.build(config["problem"], setting)
    held = layout.held(dim)
    stores = [
        Snapshots.read(models_path(target, rank), parts.headers[rank]["capacity"], part.stop - part.start, dtype)
        for rank, part in held.items()
    ]
    x_start, reached = shares[0].x0().astype(np.float64), _reached(parts, header["per_step"], len(stores))
    course = Course(MPI.COMM_SELF, layout, shares, x_start, list(held.values()), stores, reached)
    finish(course, target, {"status": "partial"}, prox.parse(config.get("prox", "none")), keep=resumable)


def _reached(parts: Parts, per_step: bool, holders: int) -> float:
    """How far the flushed rows of all ranks come, in the unit of the snapshots' tags."""
    if not parts.started:
        return 0.0
    steps = parts.steps()
    if per_step:
        return min(int((steps["rank"] == rank).sum()) for rank in range(holders))
    return float(steps["t_s"].max(initial=0.0)) / SLOT_S
