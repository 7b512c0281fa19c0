"""Figures of single steps: who computed them, how stale they were, what happened when."""

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from outpace.benchmarks.figures import links
from outpace.benchmarks.figures.drawing import INTERVAL_FROM, how_ended, how_repeated, interval_of_median, together
from outpace.benchmarks.figures.grouping import repetitions
from outpace.benchmarks.figures.looks import LAW, label_of, look_of
from outpace.benchmarks.figures.page import ENTRY, LINE, LINE_HEIGHT, NO_BREAK, check_panels, line_count, wrapped
from outpace.benchmarks.trace.run import Run
from outpace.benchmarks.trace.schema import COMMUNICATION, KIND
from outpace.comm.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES: Final[dict[str, Any]] = {"facecolor": "0.85", "hatch": "////", "edgecolor": "0.5", "linewidth": 0.6}

# How a timeline shows the kinds of events: legend text, kinds, colour, hatch.
BARS: Final = (
    ("computes", ("compute",), "#0072B2", ""),
    ("delayed by injection", ("inject",), "#D55E00", "/////"),
    ("waits for a ticket", ("wait",), "#DDDDDD", ""),
    ("communicates, blocked time included", COMMUNICATION, "#8CCBF2", ""),
    ("writes a checkpoint", ("checkpoint",), "#F0E442", "....."),
)


SLOW_LINK: Final[dict[str, Any]] = {
    "label": "its link is slow",
    "facecolor": "#E69F00",
    "edgecolor": "white",
    "linewidth": 0.3,
    "zorder": 4,
}


def shares(runs: Sequence[Run], figure: "Figure") -> str:
    """Each worker's weight in the updates beside its share of the samples."""
    groups = repetitions(runs)
    check_panels("shares", groups)
    panels = figure.subplots(len(groups), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    titles = [wrapped(label_of(group[0], runs) + how_ended(group), ENTRY) for group in groups]
    figure.set_figheight(0.3 + 0.8 * len(groups) + LINE_HEIGHT * line_count(titles))
    most = max(run.attrs["n_workers"] for run in runs)
    for axes, group, title in zip(panels, groups, titles, strict=True):
        n = group[0].attrs["n_workers"]
        workers = np.arange(n)
        data, updates = (
            np.array([run.column("workers", name) for run in group]) for name in ("data_share", "update_share")
        )
        colour = look_of(group[0], runs)["color"]
        axes.bar(workers - 0.2, np.median(data, axis=0), 0.4, label="share of the samples", **SAMPLES)
        axes.bar(workers + 0.2, np.median(updates, axis=0), 0.4, color=colour, label="weight in the updates")
        if len(group) >= INTERVAL_FROM:
            axes.vlines(workers + 0.2, *interval_of_median(updates), color="black", linewidth=0.9)
        elif len(group) > 1:
            for each in updates:
                axes.plot(workers + 0.2, each, "_", color="black", markersize=5, markeredgewidth=0.7)
        axes.axhline(1 / n, label="weight in the objective: 1/n", dashes=(5, 2), **LAW)
        axes.yaxis.set_major_formatter(_percent)
        axes.set_title(title)
        axes.set_ylabel("share")
    panels[-1].set_xticks(range(0, most, math.ceil(most / 16)))
    panels[-1].set_xlabel("worker")
    return how_repeated(groups)


def timeline(runs: Sequence[Run], figure: "Figure") -> str:
    """What each worker did in a few steps about the middle of a run, the first of its repetitions."""
    import matplotlib.ticker

    groups = repetitions(runs)
    check_panels("timeline", groups)
    repeated = max(map(len, groups))
    runs = [min(group, key=lambda run: run.attrs["seed"]) for group in groups]
    windows = [_window(run) for run in runs]
    length = max(length for _, length in windows)  # one length, so that the panels compare
    unit, scale = ("ms", 1e3) if length < 2 else ("s", 1.0)
    ranks = [int(run.column("events", "rank").max()) + 1 for run in runs]  # servers included
    row = 0.15 if max(ranks) <= 16 else 2.4 / max(ranks)  # inches
    starts = []
    for run, (middle, _) in zip(runs, windows, strict=True):
        end = run.column("events", "t_end_s").max()
        starts.append(min(max(0.0, middle - length / 2), max(0.0, end - length)))
    titles = []
    for run, start in zip(runs, starts, strict=True):
        begin = f"from {start:.3g} s".replace(" ", NO_BREAK)
        titles.append(wrapped(f"{label_of(run, runs)}, {begin}{how_ended([run])}", LINE - 5))
    panels = figure.subplots(len(runs), 1, sharex=True, squeeze=False, height_ratios=ranks)[:, 0]
    figure.set_figheight(0.35 + 0.25 * len(runs) + row * sum(ranks) + LINE_HEIGHT * line_count(titles))
    for run, axes, count, start, title in zip(runs, panels, ranks, starts, titles, strict=True):
        for legend, kinds, colour, hatch in BARS:
            rank, spans = _spans(run, kinds, start, start + length)
            lanes = [(-0.4, 0.8, 2, 0.3)]
            if kinds == COMMUNICATION:  # a thread beside the gradients: full where alone, a strip where not
                lanes = [(-0.4, 0.8, 1, 0.3), (0.1, 0.3, 3, 0.0)]
            for of_rank in np.unique(rank):
                for low, height, zorder, edge in lanes:
                    axes.broken_barh(
                        scale * spans[rank == of_rank],
                        (of_rank + low, height),
                        facecolor=colour,
                        edgecolor="white",
                        linewidth=edge,
                        hatch=hatch,
                        zorder=zorder,
                        label=legend,
                    )
        rank, spans = _slow_links(run, start, start + length)
        for of_rank in np.unique(rank):
            axes.broken_barh(scale * spans[rank == of_rank], (of_rank - 0.44, 0.18), **SLOW_LINK)
        axes.set_title(title)
        axes.set_ylim(count - 0.4, -0.6)
        n = run.attrs["n_workers"]
        axes.yaxis.set_major_locator(matplotlib.ticker.MultipleLocator(math.ceil(0.12 / row)))
        axes.yaxis.set_major_formatter(lambda rank, _, n=n: f"{rank:g}" if rank < n else f"server {rank:g}")
        axes.tick_params(left=False)
        axes.set_ylabel("rank")
    panels[-1].set_xlim(0, scale * length)
    panels[-1].set_xlabel(f"time in the window ({unit})")
    return f"the first of up to {repeated} runs each" if repeated > 1 else ""


def staleness(runs: Sequence[Run], figure: "Figure") -> str:
    """Share of the applied gradients by their staleness, with the mean and the reference n - 1."""
    every = repetitions(runs)
    values = {run.path: run.applied("staleness") for run in runs}
    for path, column in values.items():
        if not len(column):
            raise UserError(f"{path}: no gradient was applied, so no staleness")
    groups = [group for group in every if any(np.ptp(values[run.path]) for run in group)]
    if not groups:
        raise UserError("staleness: it is the same for all gradients of each run, as in synchronous programs")
    check_panels("staleness", groups)
    always: dict[int, list[str]] = {}
    for group in every:
        if group not in groups:
            always.setdefault(int(values[group[0].path][0]), []).append(group[0].name)
    constant = [f"always {value}: {', '.join(dict.fromkeys(names))}" for value, names in always.items()]
    most = max(int(column.max()) for column in values.values())
    width = math.ceil((most + 1) / 60)  # at most 60 bars, of whole numbers
    edges = np.arange(0, most + 1 + width, width) - 0.5
    floor = 0.5 / max(len(column) for column in values.values())  # half of the smallest share there can be
    panels = figure.subplots(len(groups), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    means = [float(np.median([values[run.path].mean() for run in group])) for group in groups]
    titles = [
        wrapped(f"{label_of(group[0], runs)}: mean {mean:.3g}{how_ended(group)}", ENTRY)
        for group, mean in zip(groups, means, strict=True)
    ]
    figure.set_figheight(0.3 + 0.8 * len(groups) + LINE_HEIGHT * line_count(titles))
    for axes, group, mean, title in zip(panels, groups, means, titles, strict=True):
        colour = look_of(group[0], runs)["color"]
        shares = np.array([np.histogram(values[run.path], edges)[0] / len(values[run.path]) for run in group])
        shares = np.maximum(shares, floor)  # no bar on a logarithmic axis
        axes.stairs(np.median(shares, axis=0), edges, baseline=floor, fill=True, color=colour, alpha=0.45)
        if len(group) < INTERVAL_FROM:
            for share in shares:
                axes.stairs(share, edges, baseline=floor, color=colour, linewidth=0.7)
        else:
            low, high = interval_of_median(shares)
            axes.stairs(high, edges, baseline=low, fill=True, color=colour)
        top = axes.get_xaxis_transform()
        axes.plot(mean, 1, "v", color="black", transform=top, clip_on=False, label="mean")
        reference = group[0].attrs["n_workers"] - 1
        axes.axvline(reference, label=f"n − 1 = {reference}", dashes=(5, 2), **LAW)
        axes.set_title(title, pad=8)
        axes.set_ylabel("share of the\ngradients")
    panels[0].set_yscale("log")
    panels[0].set_ylim(floor, 1.5)
    decades = 10.0 ** np.arange(math.ceil(math.log10(floor)), 1)
    panels[0].set_yticks(decades, [f"{100 * share:g} %" for share in decades])
    panels[0].set_yticks([], minor=True)
    panels[-1].set_xlabel("staleness (gradients applied meanwhile)")
    return together([how_repeated(groups), *constant])


def _window(run: Run) -> tuple[float, float]:
    """Middle and length, in seconds, of the part of a run that a timeline shows.

    It holds one step of the worker that is slowest by the median, about the middle of the run, and twelve
    steps of a worker at the usual speed if nobody had to wait. Where links changed it is about the change that is
    nearest to the middle.
    """
    rank, t_s = run.column("steps", "rank"), run.column("steps", "t_s")
    if not len(t_s) or not len(run.column("events", "rank")):
        raise UserError(f"timeline: {run.path}: no rows in /steps or in /events")
    busy = run.column("steps", "compute_s") + run.column("steps", "injected_s")
    usual = {of_rank: np.median(busy[rank == of_rank]) for of_rank in np.unique(rank)}
    slowest = max(usual, key=lambda of_rank: usual[of_rank])
    ends = np.concatenate([[0.0], np.sort(t_s[rank == slowest])])
    about = t_s.max() / 2
    if run.has("links", "t_s"):
        first = np.unique(run.column("links", "rank"), return_index=True)[1]  # what the links had at the start
        changes = np.delete(run.column("links", "t_s"), first)
        about = min(changes, key=lambda change: abs(change - about), default=about)
    k = min(int(np.searchsorted(ends[1:], about)), len(ends) - 2)
    step = ends[k + 1] - ends[k]
    return float(ends[k] + step / 2), float(max(1.1 * step, 12 * np.median(list(usual.values()))))


def _spans(run: Run, kinds: Collection[str], start: float, end: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Ranks (rows,) and (begin, duration) (rows, 2) in seconds from `start` of the events between the two."""
    t_start, t_end = run.column("events", "t_start_s"), run.column("events", "t_end_s")
    inside = np.isin(run.column("events", "kind"), [KIND[kind] for kind in kinds]) & (t_end > start) & (t_start < end)
    begin = np.maximum(t_start[inside], start)
    return run.column("events", "rank")[inside], np.stack([begin - start, np.minimum(t_end[inside], end) - begin], 1)


def _slow_links(run: Run, start: float, end: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """The same of the times, in /links, in which a rank's link had less than its rate."""
    if not run.has("links", "rank"):
        return np.empty(0, int), np.empty((0, 2))
    rank, t_s, bytes_per_s = (run.column("links", name) for name in ("rank", "t_s", "bytes_per_s"))
    slow = 8 * bytes_per_s <= 1.001 * links.slowest(run.links)
    until = np.full(len(rank), np.inf)  # of each change, the rank's next one
    for of_rank in np.unique(rank):
        own = np.flatnonzero(rank == of_rank)
        own = own[np.argsort(t_s[own], kind="stable")]
        until[own[:-1]] = t_s[own[1:]]
    seen = slow & (until > start) & (t_s < end)
    begin = np.maximum(t_s[seen], start)
    return rank[seen], np.stack([begin - start, np.minimum(until[seen], end) - begin], 1)


def _percent(share: float, _: float) -> str:
    return f"{100 * share:g} %"
