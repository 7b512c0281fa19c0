"""Figures over a whole sweep: by heterogeneity level, of the workers' pace or of their data."""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outpace.benchmarks.figures import links
from outpace.benchmarks.figures.drawing import (
    draw_points,
    frame,
    how_ended,
    how_repeated,
    log_axis,
    log_ticks,
    plot_curves,
    side_by_side,
    together,
    told_of_points,
)
from outpace.benchmarks.figures.grouping import (
    SIZE,
    check_same_settings,
    check_same_surroundings,
    difference,
    grouped,
    repetitions,
)
from outpace.benchmarks.figures.looks import LAW, differing, level_in_words, level_of, look_of, pace_of
from outpace.benchmarks.figures.page import ENTRY, HEIGHT, LINE, LINE_HEIGHT, WIDTH, check_panels, line_count, wrapped
from outpace.benchmarks.trace.common_loss import common_loss
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_COLUMNS: Final = 4  # of panels beside one another
NO_LINKS: Final = 5.0  # where runs without links stand on an axis of rates: times the fastest


def heterogeneity(runs: Sequence[Run], figure: "Figure", target: float | None = None) -> str:
    """Time per epoch and time to a common loss, or to --loss, against workers; a row for each heterogeneity level."""
    levels = _levels(runs)
    check_panels("heterogeneity", levels)
    target = common_loss(runs) if target is None else target
    counts = sorted({run.attrs["n_workers"] for run in runs})
    titles = [wrapped(title, ENTRY) for title, _ in levels]
    figure.set_size_inches(2 * WIDTH, 0.35 + len(levels) * 0.6 * HEIGHT + LINE_HEIGHT * line_count(titles))
    panels = figure.subplots(len(levels), 2, sharex=True, sharey="col", squeeze=False)
    check = functools.partial(check_same_surroundings, besides=SIZE)
    note = _draw_paces(runs, levels, panels, target, lambda run: float(run.attrs["n_workers"]), check, "n")
    for title, row in zip(titles, panels, strict=True):
        row[0].set_title(title)
        row[0].set_ylabel("s per epoch")
        row[1].set_ylabel(f"s to loss {target:g}")
    for axes in panels[-1]:  # the others share its x axis, and those above it its y axis
        log_ticks(axes, counts)
        axes.set_xlim(counts[0] / 1.25, counts[-1] * 1.25)
        log_axis(axes)
        axes.set_xlabel("workers n")
    return note


def bandwidth(runs: Sequence[Run], figure: "Figure", target: float | None = None) -> str:
    """Time per epoch and time to a common loss, or to --loss, against the rate of all links; a column for each level of
    stragglers."""
    rates = _rates(runs)
    levels = [(of[0].level, of) for of in _sorted_by(runs, pace_of)]
    check_panels("bandwidth", levels, MOST_COLUMNS)
    target = common_loss(runs) if target is None else target
    ticks = sorted(set(rates.values()) - {math.inf})
    place = {rate: rate for rate in ticks} | {math.inf: NO_LINKS * ticks[-1]}
    width = max(WIDTH, min(2 * WIDTH, 2.2 * len(levels)))
    titles = [wrapped(title, int(14 * width / len(levels))) for title, _ in levels]
    figure.set_size_inches(width, 2 * HEIGHT + LINE_HEIGHT * (1 + max(title.count("\n") for title in titles)))
    panels = figure.subplots(2, len(levels), sharex=True, sharey="row", squeeze=False)
    check = functools.partial(check_same_settings, besides=("links",))
    note = _draw_paces(runs, levels, panels.T, target, lambda run: place[rates[run.path]], check, "rate")
    if len(levels) > 1:
        for title, axes in zip(titles, panels[0], strict=True):
            axes.set_title(title)
    shown = {
        place[rate]: "no\nlinks" if math.isinf(rate) else links.short(rate) for rate in sorted(set(rates.values()))
    }
    for axes in panels[1]:
        log_ticks(axes, list(shown), list(shown.values()))
        axes.set_xlim(min(shown) / 1.4, max(shown) * 1.4)
        axes.set_xlabel("rate of every link (bit/s)")
    for axes, label in zip(panels[:, 0], ("s per epoch", f"s to loss {target:g}"), strict=True):
        log_axis(axes)
        axes.set_ylabel(label)
    return note


def _rates(runs: Sequence[Run]) -> dict[Path, float]:
    """The one rate of all links of each run, in bit/s; infinite without links."""
    first: dict[float, Run] = {}
    rates = {}
    for run in runs:
        if run.links.partition(":")[0] not in ("none", "all"):
            raise UserError(f"bandwidth: {run.path}: '{run.links}' is not one rate; allowed: none, all:rate=")
        rates[run.path] = links.slowest(run.links)
        at = first.setdefault(rates[run.path], run)
        if at.links != run.links:
            raise difference(at, run, "links", at.links, run.links, "so they cannot share a point")
    if set(first) == {math.inf}:
        raise UserError(f"bandwidth: {runs[0].path}: no run has links; needs runs with --links all:rate=")
    return rates


def _draw_paces(
    runs: Sequence[Run],
    levels: Sequence[tuple[str, list[Run]]],
    panels: Any,
    target: float,
    x: Callable[[Run], float],
    check: Callable[[Run, Run], None],
    beside: str,
) -> str:
    """Draw the time per epoch and the time to the `target` against `x` into two panels of each level; return the note.

    `check` refuses two runs that cannot share a curve. A run that does not reach the target stands above all that do.
    """
    labels = {of[0].name: of[0].name + how_ended(of) for of in grouped(runs)}
    groups = []
    epochs = {run.path: run.epoch_time() for run in runs}
    times = {run.path: _time_to(run, target) for run in runs}
    reached = [seconds for seconds in times.values() if math.isfinite(seconds)]
    never = 2 * max(reached, default=1.0)
    for (_, of_level), pair in zip(levels, panels, strict=True):
        groups += repetitions(of_level)
        if len(reached) < len(runs):
            pair[1].axhline(never, label="not reached", dashes=(1.5, 1.5), **LAW)
        for members in grouped(of_level):
            for run in members:
                check(members[0], run)
            place = side_by_side(list(labels).index(members[0].name), len(labels))
            look = look_of(members[0], runs, told=True)
            for axes, seconds, most in zip(pair, (epochs, times), (math.inf, never), strict=True):
                values: dict[float, list[float]] = {}
                for run in members:
                    values.setdefault(x(run) * place, []).append(seconds[run.path])
                draw_points(axes, values, None, labels[members[0].name], most, **look)
    return told_of_points(groups, beside if len(labels) > 1 else "")


def loss_facets(runs: Sequence[Run], figure: "Figure") -> str:
    """Loss against time in a grid: heterogeneity levels down, numbers of workers across."""
    levels = _levels(runs)
    check_panels("loss-facets", levels)
    counts = sorted({run.attrs["n_workers"] for run in runs})
    width = max(WIDTH, min(2 * WIDTH, 2.2 * len(counts)))
    columns = len(counts)
    titles = [[wrapped(f"{title}, n = {n}", int(14 * width / columns)) for n in counts] for title, _ in levels]
    tallest = [max(title.count("\n") for title in row) for row in titles]
    figure.set_size_inches(width, 0.3 + sum(0.75 * HEIGHT + LINE_HEIGHT * lines for lines in tallest))
    panels = figure.subplots(len(levels), columns, sharex=True, sharey=True, squeeze=False)
    groups, drawn, unseen = [], [], list[str]()
    for (_, of_level), row, texts in zip(levels, panels, titles, strict=True):
        for n, axes, text in zip(counts, row, texts, strict=True):
            axes.set_title(text)
            here = [run for run in of_level if run.attrs["n_workers"] == n]
            curves, left_out = plot_curves(here, runs, axes, "t_s", "loss", told=True)
            drawn += curves
            unseen += left_out
            groups += repetitions(here)
        row[0].set_ylabel("loss")
    frame(list(panels.flat), drawn, "time (s)")
    for axes in panels[:-1].flat:
        axes.set_xlabel("")
    return together([how_repeated(groups), *dict.fromkeys(unseen)])


def splits(runs: Sequence[Run], figure: "Figure") -> str:
    """Final loss over that of AllReduce-SGD with the same seed, by split, number of workers, stragglers and links."""

    def world(run: Run) -> tuple[Any, ...]:
        split = run.attrs["split"]
        return run.attrs["n_workers"], split != "iid", split, level_of(run)

    def pair(run: Run) -> tuple[Any, ...]:
        return world(run), run.attrs["seed"], run.group

    base = {pair(run): run for run in runs if run.attrs["algorithm"] == "allreduce_sgd"}
    worlds = {world(run): run for run in sorted(runs, key=world)}
    places = list(worlds)
    groups = [group for place in places for group in repetitions([run for run in runs if world(run) == place])]
    others = [members for members in grouped(runs) if members[0].attrs["algorithm"] != "allreduce_sgd"]
    if not others:
        raise UserError(f"splits: {runs[0].path}: needs runs of a program beside AllReduce-SGD")
    axes, largest = figure.add_subplot(), 1.0
    for i, members in enumerate(others):
        ratios: dict[float, list[float]] = {}
        for run in members:
            reference = base.get(pair(run))
            if reference is None:
                raise UserError(
                    f"splits: {run.path}: no run of AllReduce-SGD with its split, workers, stragglers, links and seed"
                )
            place = places.index(world(run)) + 0.5 * ((i + 0.5) / len(others) - 0.5)
            ratios.setdefault(place, []).append(run.final_loss() / reference.final_loss())
        largest = max(largest, *(max(each) for each in ratios.values()))
        look = {**look_of(members[0], runs, told=True), "linestyle": ""}
        draw_points(axes, ratios, None, label=members[0].name + how_ended(members), **look)
    axes.axhline(1, label="AllReduce-SGD", dashes=(5, 2), **LAW)
    if largest > 3:
        log_axis(axes)
    axes.set_xlim(-0.5, len(places) - 0.5)
    room = int(LINE * 0.75 / len(places))  # characters below each place
    names = [_world_in_words(run, runs, room) for run in worlds.values()]
    figure.set_figheight(HEIGHT + LINE_HEIGHT * (max(line_count([name]) for name in names) - 1))
    axes.set_xticks(range(len(places)), names)
    about = "workers n and split of the samples" + (", stragglers" if differing(runs[0], runs) else "")
    axes.set_xlabel("workers n, split, stragglers, links" if any(run.links != "none" for run in runs) else about)
    axes.set_ylabel("final loss over\nthat of\nAllReduce-SGD")
    return told_of_points(groups)


def _world_in_words(run: Run, runs: Sequence[Run], room: int) -> str:
    lines = [f"n = {run.attrs['n_workers']}", *run.attrs["split"].split(":")]
    return "\n".join(lines + [wrapped(words, max(room, 8)) for words in differing(run, runs)])


def _levels(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """The runs by stragglers, links and split, the mildest first, each with its title."""
    several = len({run.attrs["split"] for run in runs}) > 1
    levels = _sorted_by(runs, lambda run: (level_of(run), run.attrs["split"] != "iid", run.attrs["split"]))
    return [(level_in_words(of[0], runs) + (f", {of[0].attrs['split']}" if several else ""), of) for of in levels]


def _sorted_by(runs: Sequence[Run], key: Callable[[Run], Any]) -> list[list[Run]]:
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return [groups[value] for value in sorted(groups)]


def _time_to(run: Run, target: float) -> float:
    """Seconds to the target, infinite in a run that does not reach it."""
    seconds = run.time_to_loss(target)
    return math.inf if seconds is None else seconds
