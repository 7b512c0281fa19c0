"""Figures of what a run reached, against time, epochs or effort: a curve for each run."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from outpace.benchmarks.figures.drawing import draw_curves, log_axis
from outpace.benchmarks.figures.grouping import repetitions
from outpace.benchmarks.figures.looks import DASHES, LAW, look_of
from outpace.benchmarks.figures.page import HEIGHT
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def loss_time(runs: Sequence[Run], figure: "Figure") -> str:
    """Loss against time; logarithmic where it spans a factor of ten."""
    return draw_curves(runs, figure.add_subplot(), ("t_s", "time (s)"), ("loss", "loss at the mean model"))


def loss_epochs(runs: Sequence[Run], figure: "Figure") -> str:
    """Loss against passes over the data; logarithmic where it spans a factor of ten."""
    return draw_curves(
        runs, figure.add_subplot(), ("epoch", "epochs of all workers"), ("loss", "loss at the mean model")
    )


def consensus(runs: Sequence[Run], figure: "Figure") -> str:
    """Mean squared distance of the local models to their mean, against time."""
    label = "mean squared distance\nto the mean model"
    return draw_curves(runs, figure.add_subplot(), ("t_s", "time (s)"), ("consensus", label), log=True)


def gradient_mean(runs: Sequence[Run], figure: "Figure") -> str:
    """Squared norm of the full gradient at the mean model, averaged over the run so far, against epochs."""
    label = "squared gradient norm,\nmean over the run so far"
    x = "epoch", "epochs of all workers"
    return draw_curves(runs, figure.add_subplot(), x, (_mean_squared_gradient, label), log=True)


def _mean_squared_gradient(run: Run) -> NDArray[Any]:
    """At each evaluation the mean over the epochs before it, between evaluations linear; shape (rows,)."""
    steps = np.diff(run.column("evaluations", "epoch"))
    with np.errstate(over="ignore", invalid="ignore"):  # of a run that diverged
        squares = run.column("evaluations", "gradient_norm") ** 2
        sums, epochs = np.cumsum(steps * (squares[:-1] + squares[1:]) / 2), np.cumsum(steps)
        return np.append(squares[:1], np.divide(sums, epochs, out=squares[1:], where=epochs > 0))


def suboptimality_gradients(runs: Sequence[Run], figure: "Figure") -> str:
    """Suboptimality against gradients of single samples, in passes over the data."""
    x = "gradients", "gradients of samples, in passes over the data"
    return draw_curves(runs, figure.add_subplot(), x, ("suboptimality", "suboptimality"), log=True)


def suboptimality_rounds(runs: Sequence[Run], figure: "Figure") -> str:
    """Suboptimality against rounds of communication, of synchronous programs."""
    x = "rounds", "rounds of communication"
    return draw_curves(runs, figure.add_subplot(), x, ("suboptimality", "suboptimality"), log=True)


def geometry(runs: Sequence[Run], figure: "Figure") -> str:
    """Densities of gradient, noise and curvature, and signal to noise against its critical 2/sqrt(3)."""
    for run in runs:
        if not run.has("geometry", "snr_p50") or not len(run.column("geometry", "epoch")):
            raise UserError(f"geometry: {run.path}: no /geometry; allowed: runs with --geometry")
    densities, ratios = figure.subplots(2, 1, sharex=True)
    figure.set_figheight(2 * HEIGHT)
    kinds = {"gradient": DASHES[0], "noise": DASHES[2], "curvature": DASHES[4]}
    for kind, dashes in kinds.items():
        densities.plot([], [], label=f"density of the {kind}", color="black", linestyle=dashes)
    for group in repetitions(runs):
        look = look_of(group[0], runs)
        for run in group:
            epoch = run.column("geometry", "epoch")
            for kind, dashes in kinds.items():
                column = run.column("geometry", f"{kind}_density")
                densities.plot(epoch, column, color=look["color"], linestyle=dashes, linewidth=0.9)
            for low, high, alpha in (("snr_p5", "snr_p95", 0.12), ("snr_p25", "snr_p75", 0.2)):
                bounds = run.column("geometry", low), run.column("geometry", high)
                ratios.fill_between(epoch, *bounds, color=look["color"], alpha=alpha, linewidth=0)
            ratios.plot(epoch, run.column("geometry", "snr_p50"), label=group[0].label, markevery=0.2, **look)
    ratios.axhline(2 / math.sqrt(3), label="critical ratio 2/√3", dashes=(5, 2), **LAW)
    densities.set_ylim(0, 1)
    densities.set_ylabel("density")
    log_axis(ratios)
    ratios.set_ylabel("signal to noise\nof a coordinate")
    ratios.set_xlabel("epochs of all workers")
    return "medians over the coordinates, bands of 50 and 90 % of them"
