"""Figures over a whole sweep: by heterogeneity level, of the workers' pace or of their data."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from outpace.benchmarks.figures.drawing import draw_curves, draw_points, how_ended, how_repeated, log_axis, log_ticks
from outpace.benchmarks.figures.grouping import grouped, repetitions
from outpace.benchmarks.figures.looks import DASHES, LAW, look_of, slowness
from outpace.benchmarks.figures.page import HEIGHT, LINE_HEIGHT, WIDTH, line_count, wrapped
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REACHED: Final = 0.9  # share of the runs that reach the loss to which times are compared
ROOM: Final = 0.05  # of the logarithm of what lies between that loss and the start
APART: Final = 1.025  # factor between the places of two programs at one number of workers, so that neither hides


def heterogeneity(runs: Sequence[Run], figure: "Figure") -> str:
    """Time per epoch and time to a common loss against workers, a row for each heterogeneity level."""
    levels = _levels(runs)
    target = _common_loss(runs)
    counts = sorted({run.attrs["n_workers"] for run in runs})
    labels = {of[0].name: of[0].name + how_ended(of) for of in grouped(runs)}
    figure.set_size_inches(2 * WIDTH, 0.35 + len(levels) * 0.6 * HEIGHT + LINE_HEIGHT * len(levels))
    panels = figure.subplots(len(levels), 2, sharex=True, sharey="col", squeeze=False)
    groups = []
    measures = [{run.path: run.epoch_time() for run in runs}, {run.path: _time_to(run, target) for run in runs}]
    slowest = max((seconds for seconds in measures[1].values() if math.isfinite(seconds)), default=1.0)
    censored = {path: min(seconds, 2 * slowest) for path, seconds in measures[1].items()}
    for (title, of_level), row in zip(levels, panels, strict=True):
        groups += repetitions(of_level)
        if censored != measures[1]:
            row[1].axhline(2 * slowest, label="not reached", dashes=(1.5, 1.5), **LAW)
        for members in grouped(of_level):
            place = APART ** (list(labels).index(members[0].name) - (len(labels) - 1) / 2)
            look = look_of(members[0], runs) | {"linestyle": DASHES[0]}
            for axes, seconds in zip(row, (measures[0], censored), strict=True):
                values: dict[float, list[float]] = {}
                for run in members:
                    values.setdefault(run.attrs["n_workers"] * place, []).append(seconds[run.path])
                draw_points(axes, values, None, labels[members[0].name], _upper_median, **look)
        row[0].set_title(title)
        row[0].set_ylabel("s per epoch")
        row[1].set_ylabel(f"s to loss {target:g}")
    for axes in panels[-1]:  # the others share its x axis, and those above it its y axis
        log_ticks(axes, counts)
        axes.set_xlim(counts[0] / 1.25, counts[-1] * 1.25)
        log_axis(axes)
        axes.set_xlabel("workers n")
    return how_repeated(groups)


def loss_facets(runs: Sequence[Run], figure: "Figure") -> str:
    """Loss against time in a grid: heterogeneity levels down, numbers of workers across."""
    levels = _levels(runs)
    counts = sorted({run.attrs["n_workers"] for run in runs})
    width = max(WIDTH, min(2 * WIDTH, 2.2 * len(counts)))
    columns = len(counts)
    titles = [[wrapped(f"{title}, n = {n}", int(14 * width / columns)) for n in counts] for title, _ in levels]
    tallest = [max(title.count("\n") for title in row) for row in titles]
    figure.set_size_inches(width, 0.3 + sum(0.75 * HEIGHT + LINE_HEIGHT * lines for lines in tallest))
    panels = figure.subplots(len(levels), columns, sharey=True, squeeze=False)
    groups = []
    for (_, of_level), row, texts in zip(levels, panels, titles, strict=True):
        for n, axes, text in zip(counts, row, texts, strict=True):
            axes.set_title(text)
            if here := [run for run in of_level if run.attrs["n_workers"] == n]:
                draw_curves(here, axes, ("t_s", "time (s)"), ("loss", "loss"), facet=True)
                groups += repetitions(here)
        for axes in row[1:]:
            axes.set_ylabel("")
    return how_repeated(groups)


def splits(runs: Sequence[Run], figure: "Figure") -> str:
    """Final loss over that of AllReduce-SGD with the same seed, by split and number of workers."""

    def world(run: Run) -> tuple[int, bool, str]:
        return run.attrs["n_workers"], run.attrs["split"] != "iid", run.attrs["split"]

    base = {(world(run), run.attrs["seed"]): run for run in runs if run.attrs["algorithm"] == "allreduce_sgd"}
    worlds = sorted({world(run) for run in runs})
    groups = [group for place in worlds for group in repetitions([run for run in runs if world(run) == place])]
    others = [members for members in grouped(runs) if members[0].attrs["algorithm"] != "allreduce_sgd"]
    if not others:
        raise UserError(f"splits: {runs[0].path}: needs runs of a program beside AllReduce-SGD")
    axes, largest = figure.add_subplot(), 1.0
    for i, members in enumerate(others):
        ratios: dict[float, list[float]] = {}
        for run in members:
            reference = base.get((world(run), run.attrs["seed"]))
            if reference is None:
                raise UserError(f"splits: {run.path}: no run of AllReduce-SGD with its split, workers and seed")
            place = worlds.index(world(run)) + 0.5 * ((i + 0.5) / len(others) - 0.5)
            ratios.setdefault(place, []).append(run.final_loss() / reference.final_loss())
        largest = max(largest, *(max(each) for each in ratios.values()))
        look = {**look_of(members[0], runs), "linestyle": ""}
        draw_points(axes, ratios, None, label=members[0].name + how_ended(members), **look)
    axes.axhline(1, label="AllReduce-SGD", dashes=(5, 2), **LAW)
    if largest > 3:
        log_axis(axes)
    axes.set_xlim(-0.5, len(worlds) - 0.5)
    names = [f"n = {n}\n" + split.replace(":", "\n") for n, _, split in worlds]
    figure.set_figheight(HEIGHT + LINE_HEIGHT * (max(line_count([name]) for name in names) - 1))
    axes.set_xticks(range(len(worlds)), names)
    axes.set_xlabel("workers n and split of the samples")
    axes.set_ylabel("final loss over\nthat of AllReduce-SGD")
    return how_repeated(groups)


def _levels(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """The runs by stragglers and split, the mildest first, each with its title."""
    splits = {run.attrs["split"] for run in runs}
    levels: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        split = run.attrs["split"]
        levels.setdefault((slowness(run), run.attrs["stragglers"], split != "iid", split), []).append(run)
    ordered = [levels[key] for key in sorted(levels)]
    return [(f"{of[0].level}, {of[0].attrs['split']}" if len(splits) > 1 else of[0].level, of) for of in ordered]


def _common_loss(runs: Sequence[Run]) -> float:
    """The loss that 90 % of the runs reach, relaxed by 5 % towards the start on a logarithmic scale, to two digits.

    Without that room it would be chance whether the next run reaches it.
    """
    lowest, starts = [], []
    for run in runs:
        loss = run.column("evaluations", "loss")
        finite = loss[np.isfinite(loss)]
        if not len(finite):
            raise UserError(f"{run.path}: no finite loss in /evaluations")
        lowest.append(float(finite.min()))
        starts.append(float(finite[0]))
    target = float(np.quantile(lowest, REACHED, method="inverted_cdf"))
    if target <= 0:
        return target
    target *= (float(np.median(starts)) / target) ** ROOM
    unit = 10.0 ** (math.floor(math.log10(target)) - 1)
    return float(f"{math.ceil(target / unit - 1e-9) * unit:.2g}")


def _time_to(run: Run, target: float) -> float:
    """Seconds to the target, infinite in a run that does not reach it."""
    seconds = run.time_to_loss(target)
    return math.inf if seconds is None else seconds


def _upper_median(values: list[float]) -> float:
    """Of an even number the larger of the two in the middle: between a time and none there is no mean."""
    return sorted(values)[len(values) // 2]
