"""Where the model goes if one worker is slow and no other has data like its own."""

from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from outpace.benchmarks.running import rebuilt
from outpace.benchmarks.studies.launches import draw, trace
from outpace.benchmarks.trace.run import Run

PROGRAMS: Final = {
    "AllReduce-SGD": ("allreduce_sgd",),
    "A-PSGD": ("a_psgd",),
    "m-sync SGD": ("m_sync_sgd",),
    "Ringmaster ASGD": ("ringmaster_asgd",),
    "Ringleader ASGD": ("ringmaster_asgd", "--variant", "ringleader"),
}
QUADRATIC: Final = ("--problem", "quadratic:dim=100,condition=2,zeta=1")  # gradients are exact
EXCLUSIVE: Final = ("--problem", "digits:hidden=0", "--split", "labels:classes=2")  # no label on two of five workers


def slow_data(folder: Path, launches: int = 5, seconds: float = 6) -> dict[str, tuple[float, float, float]]:
    """program -> medians over launches: the distance of the last model from the minimiser of (1/n) sum f_i, over that
    of the first one, on a quadratic whose workers have minima of their own; and of the digits, with exclusive labels,
    the loss and the accuracy at the end.

    5 workers, worker 0 slowed 10x, 5 ms of compute slept, step size 0.3. Draws `shares` of the digits.
    """
    paces = ["--compute-time", "0.005", "--stragglers", "fixed:rank=0,factor=10", "--time-budget", f"{seconds:g}"]
    paces += ["--step-size", "0.3", "--dtype", "float64"]
    found, drawn = {}, []
    for name, (program, *more) in PROGRAMS.items():
        rows = []
        for seed in range(launches):
            flags = [*more, *paces, "--seed", str(seed)]
            label = name.partition(" ")[0].lower()
            away = _from_the_minimum(trace(folder / f"{label}-quadratic-{seed}.h5", program, 5, *QUADRATIC, *flags))
            run = trace(folder / f"{label}-digits-{seed}.h5", program, 5, *EXCLUSIVE, *flags)
            rows.append((away, run.final_loss(), float(run.column("evaluations", "accuracy")[-1])))
            drawn.append(run)
        away, loss, accuracy = np.median(rows, axis=0).tolist()
        found[name] = away, loss, accuracy
    shown = Table("program", "distance from the minimiser", "loss", "accuracy", title="worker 0 slowed 10x")
    for name, (away, loss, accuracy) in found.items():
        shown.add_row(name, f"{away:.2g}", f"{loss:.3f}", f"{accuracy:.3f}")
    Console().print(shown)
    draw("shares", drawn, folder / "shares-exclusive.png")
    return found


def _from_the_minimum(run: Run) -> float:
    """How far the last model is from the minimiser, over how far the first one was."""
    share = rebuilt.shares(run.attrs, str(run.path), "measured")[0]
    x, x_star = run.column("model", "x_mean"), share.x_star
    return float(np.linalg.norm(x - x_star) / np.linalg.norm(share.x0() - x_star))
