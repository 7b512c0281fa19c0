"""Figures of what a run reached, against time, epochs or effort: a curve for each run."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from outpace.benchmarks.figures.drawing import draw_curves, how_ended, log_axis
from outpace.benchmarks.figures.grouping import repetitions
from outpace.benchmarks.figures.looks import DASHES, LAW, label_of, look_of
from outpace.benchmarks.figures.page import ENTRY, HEIGHT, LINE_HEIGHT, check_panels, line_count, wrapped
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Columns of /evaluations with their axis labels.
TIME: Final = ("t_s", "time (s)")
EPOCHS: Final = ("epoch", "epochs of all workers")
LOSS: Final = ("loss", "loss at the mean model")
HELD_OUT_LOSS: Final = ("held_out_loss", "held-out loss\nat the mean model")
ACCURACY: Final = ("accuracy", "held-out accuracy\nat the mean model")


def loss_time(runs: Sequence[Run], figure: "Figure") -> str:
    """Loss against time; logarithmic where it spans a factor of ten."""
    return draw_curves(runs, figure.add_subplot(), TIME, LOSS)


def loss_epochs(runs: Sequence[Run], figure: "Figure") -> str:
    """Loss against passes over the data; logarithmic where it spans a factor of ten."""
    return draw_curves(runs, figure.add_subplot(), EPOCHS, LOSS)


def held_out_loss_time(runs: Sequence[Run], figure: "Figure") -> str:
    """Mean loss of the held-out samples against time; logarithmic where it spans a factor of ten."""
    return draw_curves(runs, figure.add_subplot(), TIME, HELD_OUT_LOSS)


def held_out_loss_epochs(runs: Sequence[Run], figure: "Figure") -> str:
    """Mean loss of the held-out samples against passes over the data; logarithmic where it spans a factor of ten."""
    return draw_curves(runs, figure.add_subplot(), EPOCHS, HELD_OUT_LOSS)


def accuracy_time(runs: Sequence[Run], figure: "Figure") -> str:
    """Share of the held-out samples that is classified correctly, against time."""
    return draw_curves(runs, figure.add_subplot(), TIME, ACCURACY, share=True)


def accuracy_epochs(runs: Sequence[Run], figure: "Figure") -> str:
    """Share of the held-out samples that is classified correctly, against passes over the data."""
    return draw_curves(runs, figure.add_subplot(), EPOCHS, ACCURACY, share=True)


def consensus(runs: Sequence[Run], figure: "Figure") -> str:
    """Mean squared distance of the local models to their mean, against time."""
    label = "mean squared distance\nto the mean model"
    return draw_curves(runs, figure.add_subplot(), TIME, ("consensus", label), log=True)


def gradient_mean(runs: Sequence[Run], figure: "Figure") -> str:
    """Squared norm of the full gradient at the mean model, averaged over the run so far, against epochs."""
    label = "squared gradient norm,\nmean over the run so far"
    return draw_curves(runs, figure.add_subplot(), EPOCHS, (_mean_squared_gradient, label), log=True)


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
            ratios.plot(epoch, run.column("geometry", "snr_p50"), label=label_of(group[0], runs), markevery=0.2, **look)
    ratios.axhline(2 / math.sqrt(3), label="critical ratio 2/√3", dashes=(5, 2), **LAW)
    densities.set_ylim(0, 1)
    densities.set_ylabel("density")
    log_axis(ratios)
    ratios.set_ylabel("signal to noise\nof a coordinate")
    ratios.set_xlabel("epochs of all workers")
    return "medians over the coordinates, bands of 50 and 90 % of them"


def noise(runs: Sequence[Run], figure: "Figure") -> str:
    """Histograms of the gradient's noise in random coordinates, beside the normal density of the same variance."""
    last = {run.path: _last_histograms(run) for run in runs}
    groups = repetitions(runs)
    check_panels("noise", groups)
    titles = []
    for group in groups:
        shapes = np.concatenate([_shape(*last[run.path]) for run in group], axis=1)
        skewness, bimodality = map(_span, shapes)
        title = f"{label_of(group[0], runs)}{how_ended(group)}: skewness {skewness}, bimodality {bimodality}"
        titles.append(wrapped(title, ENTRY))
    panels = figure.subplots(len(groups), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    figure.set_figheight(0.3 + 1.2 * len(groups) + LINE_HEIGHT * line_count(titles))
    z = np.linspace(-5, 5, 201)
    for axes, group, title in zip(panels, groups, titles, strict=True):
        colour = look_of(group[0], runs)["color"]
        for run in group:
            edges, shares = last[run.path]
            for share in shares:
                axes.stairs(share / np.diff(edges), edges, label="one coordinate each", color=colour, linewidth=0.7)
        normal = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        axes.plot(z, normal, label="normal of the same variance", dashes=(5, 2), **LAW)
        axes.set_title(title)
        axes.set_ylabel("density")
    panels[-1].set_xlabel("noise of a coordinate, over its standard deviation")
    return "at the last evaluation; bimodality (skewness² + 1) / kurtosis: normal 1/3, uniform 5/9, two points 1"


def _last_histograms(run: Run) -> tuple[NDArray[Any], NDArray[Any]]:
    """Edges (bins + 1,) and shares (coordinates, bins) of a run's last evaluation with noise."""
    if not run.has("noise", "share") or not len(run.column("noise", "share")):
        raise UserError(f"noise: {run.path}: no rows in /noise; allowed: runs with --geometry and with noise")
    evaluation = run.column("noise", "evaluation")
    rows = evaluation == evaluation[-1]
    low = np.unique(run.column("noise", "low"))
    return np.append(low, 2 * low[-1] - low[-2]), run.column("noise", "share")[rows].reshape(-1, len(low))


def _shape(edges: NDArray[Any], shares: NDArray[Any]) -> NDArray[Any]:
    """Skewness and Sarle's bimodality coefficient of each histogram, shape (2, coordinates); a bin is its middle."""
    z = (edges[:-1] + edges[1:]) / 2
    z = z - (shares @ z)[:, None]
    second, third, fourth = ((shares * z**power).sum(axis=1) for power in (2, 3, 4))
    skewness = third / second**1.5
    return np.stack([skewness, (skewness**2 + 1) / (fourth / second**2)])


def _span(values: NDArray[Any]) -> str:
    low, high = (f"{round(float(value), 2) + 0.0:.2f}" for value in (values.min(), values.max()))  # never -0.00
    return low if low == high else f"{low} to {high}"
