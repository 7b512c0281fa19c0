"""The figures over traces, behind `outpace plot`: one function each, all in the table FIGURES.

A figure function gets the runs and an empty matplotlib figure of one column's width, fills it and returns
what its readers must know of how repetitions are drawn. `compose` adds what every figure states (problem,
split, workers, claim class) and the legend outside of the data. A new figure is one function and one row of
FIGURES; the first line of its docstring is what `outpace plot` lists.

In every figure a program has one colour and one marker, and a straggler setting one dash pattern, so that a
print in grey can be read. Runs that differ in nothing but seed and length are repetitions of one another:
fewer than ten are drawn thin with their median thick, ten or more as their median with its 95 % interval.
"""

import math
import os
import re
import textwrap
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from outpace.benchmarks.reading import NAMES, Run
from outpace.benchmarks.schema import KIND
from outpace.comm.spec import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES: Final = (".pdf", ".png", ".svg")
WIDTH: Final = 3.5  # inches: one column of a two-column page
HEIGHT: Final = 1.95  # inches: one panel with its labels, without the facts above and the legend below
LINE: Final = 55  # characters of 8 pt in WIDTH
ENTRY: Final = 42  # the same beside a handle of the legend or above a panel
LINE_HEIGHT: Final = 0.14  # inches of a line of text
NO_BREAK: Final = "\u00a0"  # a space at which no line ends
INTERVAL_FROM: Final = 10  # repetitions from which an interval replaces the single runs
BOOTSTRAP: Final = 71  # purpose of the random numbers behind the intervals of ratios

STYLE: Final = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "figure.titlesize": 8,
    "figure.labelsize": 8,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "hatch.linewidth": 0.6,
    "pdf.fonttype": 42,  # journals refuse Type 3 fonts
    "savefig.dpi": 300,
}

# Colour and marker of a program, everywhere. The colours are Okabe and Ito's, without the yellow that is lost
# on paper; grey and the last two (Tol's muted scheme) differ from the others in lightness.
PROGRAMS: Final = {
    "allreduce_sgd": ("#000000", "s"),
    "a_psgd": ("#E69F00", "^"),
    "d_psgd": ("#0072B2", "D"),
    "ad_psgd": ("#D55E00", "o"),
    "d2": ("#009E73", "v"),
    "eamsgd": ("#56B4E9", "p"),
    "sign_sgd": ("#CC79A7", "X"),
    "svrg": ("#777777", "<"),
    "quantized_sgd": ("#999933", "P"),
    "katyusha_x": ("#882255", ">"),
}
VARIANTS: Final = {"Katyusha Xʷ": ("#AA4499", "h"), "Katyusha Xˢ, stratified": ("#117733", "8")}  # by name of the run
OTHERS: Final = (("#555555", "*"), ("#AAAAAA", "h"), ("#333333", "d"))  # programs that are not in the table
DASHES: Final = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)), (0, (10, 3)), (0, (3, 4)))
SAMPLES: Final[dict[str, Any]] = {"facecolor": "0.85", "hatch": "////", "edgecolor": "0.5", "linewidth": 0.6}
LAW: Final[dict[str, Any]] = {"color": "0.25", "linewidth": 0.9, "zorder": 4}  # a law or a reference, always dashed

# How a timeline shows the kinds of events: legend text, kinds, colour, hatch.
COMMUNICATION: Final = ("exchange", "allreduce", "vote", "pull", "push")
BARS: Final = (
    ("computes", ("compute",), "#0072B2", ""),
    ("delayed by injection", ("inject",), "#D55E00", "/////"),
    ("waits for a ticket", ("wait",), "#DDDDDD", ""),
    ("communicates, blocked time included", COMMUNICATION, "#8CCBF2", ""),
    ("writes a checkpoint", ("checkpoint",), "#F0E442", "....."),
)

# What all runs of a figure share, but for what the figure is about.
SHARED: Final = ("claim_class", "problem", "split", "n_workers")
ABOUT: Final = {
    "speed-up": ("n_workers",),
    "steps-rate": ("n_workers",),
    "splits": ("split", "n_workers"),
}

# Flags that say how long a run is, which seed it has and where it is written.
NOT_SETTINGS: Final = frozenset({"seed", "epochs", "time_budget", "evaluations", "out", "overwrite"})


def describe() -> list[str]:
    """One line for each figure: its name and what it shows."""
    width = max(map(len, FIGURES))
    return [f"{name:{width}}  {(figure.__doc__ or '').splitlines()[0]}" for name, figure in FIGURES.items()]


def draw(name: str, paths: Iterable[str | Path], out: str | Path) -> None:
    """Draw the figure `name` over the traces at `paths` into the file `out`, whose suffix gives the format.

    An existing `out` is replaced at the end, in one step. Raises UserError: unknown figure or suffix, no
    folder for `out`, a trace that cannot be read, traces that do not belong in one figure.
    """
    out = Path(out)
    if name not in FIGURES:
        raise UserError(f"unknown figure '{name}'; allowed: {', '.join(FIGURES)}")
    if out.suffix not in SUFFIXES:
        raise UserError(f"{out}: unknown format '{out.suffix}'; allowed: {', '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise UserError(f"{out}: no folder {out.parent}")
    figure = compose(name, [Run(path) for path in dict.fromkeys(map(Path, paths))])
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with _style():
            figure.savefig(unfinished, format=out.suffix[1:])
        unfinished.replace(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def compose(name: str, runs: Sequence[Run]) -> "Figure":
    """The figure `name` over the runs, as a matplotlib figure.

    Raises UserError: no runs, runs that do not belong in one figure, a column the figure needs is missing.
    """
    from matplotlib.figure import Figure

    if not runs:
        raise UserError(f"{name}: no trace given")
    _check_shared(name, runs)
    with _style():
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        note = FIGURES[name](runs, figure)
        facts = figure.suptitle(_facts(runs, note), x=0.01, ha="left", color="0.3")
        figure.set_figheight(figure.get_figheight() + facts.get_window_extent().height / figure.dpi)
        _add_legend(figure)
    return figure


def loss_time(runs: Sequence[Run], figure: "Figure") -> str:
    """Loss against time; logarithmic where it spans a factor of ten."""
    return _curves(runs, figure.add_subplot(), ("t_s", "time (s)"), ("loss", "loss at the mean model"))


def loss_epochs(runs: Sequence[Run], figure: "Figure") -> str:
    """Loss against passes over the data; logarithmic where it spans a factor of ten."""
    return _curves(runs, figure.add_subplot(), ("epoch", "epochs of all workers"), ("loss", "loss at the mean model"))


def consensus(runs: Sequence[Run], figure: "Figure") -> str:
    """Mean squared distance of the local models to their mean, against time."""
    label = "mean squared distance\nto the mean model"
    return _curves(runs, figure.add_subplot(), ("t_s", "time (s)"), ("consensus", label), log=True)


def suboptimality_gradients(runs: Sequence[Run], figure: "Figure") -> str:
    """Suboptimality against gradients of single samples, in passes over the data."""
    x = "gradients", "gradients of samples, in passes over the data"
    return _curves(runs, figure.add_subplot(), x, ("suboptimality", "suboptimality"), log=True)


def suboptimality_rounds(runs: Sequence[Run], figure: "Figure") -> str:
    """Suboptimality against rounds of communication, of synchronous programs."""
    x = "rounds", "rounds of communication"
    return _curves(runs, figure.add_subplot(), x, ("suboptimality", "suboptimality"), log=True)


def batches(runs: Sequence[Run], figure: "Figure") -> str:
    """Rounds per epoch of SVRG and Katyusha X, and passes to 1e-8 of the start's suboptimality, against batch size."""
    rounds, passes = figure.subplots(2, 1, sharex=True)
    figure.set_figheight(2 * HEIGHT)
    groups = []
    for members in _grouped(runs, "algorithm"):
        look = {**_look(members[0], runs), "linestyle": DASHES[0]}
        per_epoch: dict[float, list[float]] = {}
        to_target: dict[float, list[float]] = {}
        for run in members:
            _check_same_settings(members[0], run, besides=("batch_size",))
            b = run.config["batch_size"]
            per_epoch.setdefault(b, []).append(run.rounds_per_step())
            to_target.setdefault(b, []).append(run.effort_to(1e-8))
        groups += list(to_target.values())
        _points(rounds, per_epoch, None, label=members[0].name + _ended(members), **look)
        _points(passes, to_target, None, **look)
    sizes = sorted({run.config["batch_size"] for run in runs})
    b, N = np.array(sizes), runs[0].attrs["n_total"]
    rounds.plot(b, 1 + np.ceil(N / b), label="mean of the law: 1 + ⌈N/b⌉", dashes=(5, 2), **LAW)
    passes.axvline(N**0.5, label="b = √N", dashes=(1.5, 1.5), **LAW)
    _log_ticks(passes, sizes)
    _log_axis(rounds)
    if np.isfinite([each for group in groups for each in group]).any():
        _log_axis(passes)
    passes.set_xlabel("batch size b of all workers together")
    rounds.set_ylabel("rounds per epoch")
    passes.set_ylabel("passes to 1e-8 of the\nstart's suboptimality")
    return _medians(groups)


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
    for group in _repetitions(runs):
        look = _look(group[0], runs)
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
    _log_axis(ratios)
    ratios.set_ylabel("signal to noise\nof a coordinate")
    ratios.set_xlabel("epochs of all workers")
    return "medians over the coordinates, bands of 50 and 90 % of them"


def epoch_time(runs: Sequence[Run], figure: "Figure") -> str:
    """Time per epoch against the factor of the slow ranks, in seconds and over the same without them."""
    groups = _repetitions(runs)
    factors, count = _slow_downs(runs)
    n = runs[0].attrs["n_workers"]
    absolute, relative = figure.subplots(2, 1, sharex=True)
    figure.set_figheight(2 * HEIGHT)
    for members in _grouped(runs, "algorithm"):
        times: dict[float, list[float]] = {}
        for run in members:
            _check_same_settings(members[0], run, besides=("stragglers",))
            times.setdefault(factors[run.path], []).append(run.epoch_time())
        name = members[0].name + _ended(members)
        if 1.0 not in times:
            raise UserError(f"epoch-time: no run of {members[0].name} with --stragglers none to compare with")
        look = {**_look(members[0], runs), "linestyle": DASHES[0]}
        _points(absolute, times, None, label=name, **look)
        _points(relative, times, times[1.0], **look)
    s = np.geomspace(1, max(factors.values()), 100)
    relative.plot(s, s, label="ideal synchronous: s", dashes=(1.5, 1.5), **LAW)
    law = f"ideal asynchronous: n/(n − {count} + {count}/s)"
    relative.plot(s, n / (n - count + count / s), label=law, dashes=(5, 2), **LAW)
    _log_ticks(relative, sorted(set(factors.values())))
    _log_axis(absolute)
    _log_axis(relative)
    relative.set_xlabel(f"injected slow-down s of {'one rank' if count == 1 else f'{count} ranks'} of {n}")
    absolute.set_ylabel("time per epoch (s)")
    relative.set_ylabel("time per epoch over\nthat without stragglers")
    return _medians(groups)


def speed_up(runs: Sequence[Run], figure: "Figure") -> str:
    """Samples per second against the number of workers, over those of the smallest number."""
    groups = _scaling("speed-up", runs)
    axes = figure.add_subplot()
    smallest = set()
    for members in _grouped(runs, "algorithm", "stragglers"):
        rates = _by_workers(members, Run.samples_per_s)
        least = min(rates)
        smallest.add(least)
        base = f"{float(f'{np.median(rates[least]):.3g}'):g}/s at n = {least}"
        label = f"{members[0].label} ({base.replace(' ', NO_BREAK)}){_ended(members)}"
        _points(axes, rates, rates[least], label=label, **_look(members[0], runs))
    counts = sorted({run.attrs["n_workers"] for run in runs})
    for least in smallest:
        ideal = [1, counts[-1] / least]
        axes.plot([least, counts[-1]], ideal, label="ideal: proportional to n", dashes=(5, 2), **LAW)
    _log_ticks(axes, counts)
    _log_axis(axes)
    axes.set_xlabel("workers n")
    axes.set_ylabel("samples/s over those\nat the smallest n")
    return _medians(groups)


def steps_rate(runs: Sequence[Run], figure: "Figure") -> str:
    """Gradients per second against the number of workers, and what the busiest rank sends or receives for them."""
    groups = _scaling("steps-rate", runs)
    rate, traffic = figure.subplots(2, 1, sharex=True)
    figure.set_figheight(2 * HEIGHT)
    for members in _grouped(runs, "algorithm", "stragglers"):
        look = _look(members[0], runs)
        label = members[0].label + _ended(members)
        _points(rate, _by_workers(members, Run.steps_per_s), None, label=label, **look)
        _points(traffic, _by_workers(members, lambda run: run.busiest_nbytes() / 1e6), None, **look)
    counts = sorted({run.attrs["n_workers"] for run in runs})
    _log_ticks(traffic, counts)
    _log_axis(rate)
    _log_axis(traffic)
    traffic.set_xlabel("workers n")
    rate.set_ylabel("gradients/s")
    traffic.set_ylabel("busiest rank: MB per\ngradient of each worker")
    return _medians(groups)


def splits(runs: Sequence[Run], figure: "Figure") -> str:
    """Final loss over that of AllReduce-SGD with the same seed, by split and number of workers."""

    def world(run: Run) -> tuple[int, bool, str]:
        return run.attrs["n_workers"], run.attrs["split"] != "iid", run.attrs["split"]

    base = {(world(run), run.attrs["seed"]): run for run in runs if run.attrs["algorithm"] == "allreduce_sgd"}
    worlds = sorted({world(run) for run in runs})
    groups = [group for place in worlds for group in _repetitions([run for run in runs if world(run) == place])]
    others = [members for members in _grouped(runs, "algorithm") if members[0].attrs["algorithm"] != "allreduce_sgd"]
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
        look = {**_look(members[0], runs), "linestyle": ""}
        _points(axes, ratios, None, label=members[0].name + _ended(members), **look)
    axes.axhline(1, label="AllReduce-SGD", dashes=(5, 2), **LAW)
    if largest > 3:
        _log_axis(axes)
    axes.set_xlim(-0.5, len(worlds) - 0.5)
    names = [f"n = {n}\n" + split.replace(":", "\n") for n, _, split in worlds]
    axes.set_xticks(range(len(worlds)), names)
    axes.set_xlabel("workers n and split of the samples")
    axes.set_ylabel("final loss over\nthat of AllReduce-SGD")
    return _medians(groups)


def shares(runs: Sequence[Run], figure: "Figure") -> str:
    """Each worker's share of the applied gradients beside its share of the samples."""
    groups = _repetitions(runs)
    panels = figure.subplots(len(groups), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    titles = [_wrapped(group[0].label + _ended(group), ENTRY) for group in groups]
    figure.set_figheight(0.3 + 0.8 * len(groups) + LINE_HEIGHT * _lines(titles))
    n = runs[0].attrs["n_workers"]
    workers = np.arange(n)
    for axes, group, title in zip(panels, groups, titles, strict=True):
        data, updates = (
            np.array([run.column("workers", name) for run in group]) for name in ("data_share", "update_share")
        )
        colour = _look(group[0], runs)["color"]
        axes.bar(workers - 0.2, np.median(data, axis=0), 0.4, label="share of the samples", **SAMPLES)
        axes.bar(workers + 0.2, np.median(updates, axis=0), 0.4, color=colour, label="share of the applied gradients")
        if len(group) >= INTERVAL_FROM:
            axes.vlines(workers + 0.2, *_interval(updates), color="black", linewidth=0.9)
        elif len(group) > 1:
            for each in updates:
                axes.plot(workers + 0.2, each, "_", color="black", markersize=5, markeredgewidth=0.7)
        axes.axhline(1 / n, label="weight in the objective: 1/n", dashes=(5, 2), **LAW)
        axes.yaxis.set_major_formatter(_percent)
        axes.set_title(title)
        axes.set_ylabel("share")
    panels[-1].set_xticks(workers[:: math.ceil(n / 16)])
    panels[-1].set_xlabel("worker")
    return _medians(groups)


def staleness(runs: Sequence[Run], figure: "Figure") -> str:
    """Share of the gradients by their staleness, with the mean and the reference n - 1."""
    groups = _repetitions(runs)
    values = {run.path: run.column("steps", "staleness") for run in runs}
    for path, column in values.items():
        if not len(column):
            raise UserError(f"{path}: no step in /steps, so no staleness")
    most = max(int(column.max()) for column in values.values())
    width = math.ceil((most + 1) / 60)  # at most 60 bars, of whole numbers
    edges = np.arange(0, most + 1 + width, width) - 0.5
    floor = 0.5 / max(len(column) for column in values.values())  # half of the smallest share there can be
    reference = runs[0].attrs["n_workers"] - 1
    panels = figure.subplots(len(groups), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    means = [float(np.median([values[run.path].mean() for run in group])) for group in groups]
    titles = [
        _wrapped(f"{group[0].label}: mean {mean:.3g}{_ended(group)}", ENTRY)
        for group, mean in zip(groups, means, strict=True)
    ]
    figure.set_figheight(0.3 + 0.8 * len(groups) + LINE_HEIGHT * _lines(titles))
    for axes, group, mean, title in zip(panels, groups, means, titles, strict=True):
        colour = _look(group[0], runs)["color"]
        shares = np.array([np.histogram(values[run.path], edges)[0] / len(values[run.path]) for run in group])
        shares = np.maximum(shares, floor)  # no bar on a logarithmic axis
        axes.stairs(np.median(shares, axis=0), edges, baseline=floor, fill=True, color=colour, alpha=0.45)
        if len(group) < INTERVAL_FROM:
            for share in shares:
                axes.stairs(share, edges, baseline=floor, color=colour, linewidth=0.7)
        else:
            low, high = _interval(shares)
            axes.stairs(high, edges, baseline=low, fill=True, color=colour)
        top = axes.get_xaxis_transform()
        axes.plot(mean, 1, "v", color="black", transform=top, clip_on=False, label="mean")
        axes.axvline(reference, label=f"n − 1 = {reference}", dashes=(5, 2), **LAW)
        axes.set_title(title, pad=8)
        axes.set_ylabel("share of the\ngradients")
    panels[0].set_yscale("log")
    panels[0].set_ylim(floor, 1.5)
    decades = 10.0 ** np.arange(math.ceil(math.log10(floor)), 1)
    panels[0].set_yticks(decades, [f"{100 * share:g} %" for share in decades])
    panels[0].set_yticks([], minor=True)
    panels[-1].set_xlabel("staleness (gradients applied meanwhile)")
    return _medians(groups)


def timeline(runs: Sequence[Run], figure: "Figure") -> str:
    """What each worker did in a few steps about the middle of each run."""
    import matplotlib.ticker

    windows = [_window(run) for run in runs]
    length = max(length for _, length in windows)  # one length, so that the panels compare
    unit, scale = ("ms", 1e3) if length < 2 else ("s", 1.0)
    ranks = [int(run.column("events", "rank").max()) + 1 for run in runs]  # servers included
    row = 0.15 if max(ranks) <= 16 else 2.4 / max(ranks)  # inches
    starts = []
    for run, (middle, _) in zip(runs, windows, strict=True):
        end = run.column("events", "t_end_s").max()
        starts.append(min(max(0.0, middle - length / 2), max(0.0, end - length)))
    labels = [run.label for run in runs]
    titles = []
    for run, start in zip(runs, starts, strict=True):
        seed = f", seed {run.attrs['seed']}" if labels.count(run.label) > 1 else ""
        begin = f"from {start:.3g} s".replace(" ", NO_BREAK)
        titles.append(_wrapped(f"{run.label}{seed}, {begin}{_ended([run])}", LINE - 5))
    panels = figure.subplots(len(runs), 1, sharex=True, squeeze=False, height_ratios=ranks)[:, 0]
    figure.set_figheight(0.35 + 0.25 * len(runs) + row * sum(ranks) + LINE_HEIGHT * _lines(titles))
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
        axes.set_title(title)
        axes.set_ylim(count - 0.4, -0.6)
        n = run.attrs["n_workers"]
        axes.yaxis.set_major_locator(matplotlib.ticker.MultipleLocator(math.ceil(0.12 / row)))
        axes.yaxis.set_major_formatter(lambda rank, _, n=n: f"{rank:g}" if rank < n else f"server {rank:g}")
        axes.tick_params(left=False)
        axes.set_ylabel("rank")
    panels[-1].set_xlim(0, scale * length)
    panels[-1].set_xlabel(f"time in the window ({unit})")
    return ""


FIGURES: Final[dict[str, Callable[[Sequence[Run], "Figure"], str]]] = {
    "loss-time": loss_time,
    "loss-epochs": loss_epochs,
    "epoch-time": epoch_time,
    "speed-up": speed_up,
    "steps-rate": steps_rate,
    "splits": splits,
    "shares": shares,
    "timeline": timeline,
    "staleness": staleness,
    "consensus": consensus,
    "suboptimality-gradients": suboptimality_gradients,
    "suboptimality-rounds": suboptimality_rounds,
    "batches": batches,
    "geometry": geometry,
}


# Which runs belong together.


def _check_shared(name: str, runs: Sequence[Run]) -> None:
    for run in runs[1:]:
        for attribute in SHARED:
            values = runs[0].attrs[attribute], run.attrs[attribute]
            if attribute not in ABOUT.get(name, ()) and values[0] != values[1]:
                raise _differ(runs[0], run, attribute, *values, "one figure holds one")
        compute = _compute_per_sample(runs[0]), _compute_per_sample(run)
        if not math.isclose(*compute, rel_tol=1e-6):
            raise _differ(runs[0], run, "compute time per sample", *compute, "one figure holds one")


def _check_same_settings(first: Run, run: Run, besides: Collection[str] = ()) -> None:
    for key in sorted((first.config.keys() | run.config.keys()) - NOT_SETTINGS - set(besides)):
        values = first.config.get(key), run.config.get(key)
        if values[0] != values[1]:
            raise _differ(first, run, key, *values, "so they cannot stand for the same program")


def _differ(first: Run, second: Run, what: str, one: Any, other: Any, so: str) -> UserError:
    return UserError(f"{first.path} and {second.path} differ in {what} ({one}, {other}): {so}")


def _grouped(runs: Sequence[Run], *attributes: str) -> list[list[Run]]:
    """The runs by these attributes: programs in the order of NAMES, then by slowness and workers."""
    names = list(NAMES)

    def order(run: Run) -> tuple[Any, ...]:
        algorithm, stragglers = run.attrs["algorithm"], run.attrs["stragglers"]
        place = names.index(algorithm) if algorithm in names else len(names)
        return place, run.name, *_slowness(run), stragglers, run.attrs["n_workers"]

    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in sorted(runs, key=order):
        key = tuple(run.name if attribute == "algorithm" else run.attrs[attribute] for attribute in attributes)
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _repetitions(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs grouped into repetitions. Raises UserError where two differ in more than seed and length."""
    groups = _grouped(runs, "algorithm", "stragglers", "n_workers")
    for group in groups:
        for run in group[1:]:
            _check_same_settings(group[0], run)
    return groups


def _scaling(name: str, runs: Sequence[Run]) -> list[list[Run]]:
    """The repetitions of runs that may show how a rate grows with the workers, of each program at two sizes or more."""
    for run in runs:
        if run.attrs["claim_class"] == "emulated" and not _compute_per_sample(run):
            raise UserError(
                f"{name}: ranks of {run.path} shared cores, which allows no claim of speed-up; "
                "allowed: runs with --compute-time, or with a core for each rank"
            )
    groups = _repetitions(runs)
    for members in _grouped(runs, "algorithm", "stragglers"):
        if len({run.attrs["n_workers"] for run in members}) == 1:
            raise UserError(f"{name}: {members[0].label}: needs runs with two or more numbers of workers")
    return groups


def _by_workers(runs: Sequence[Run], measure: Callable[[Run], float]) -> dict[float, list[float]]:
    values: dict[float, list[float]] = {}
    for run in runs:
        values.setdefault(run.attrs["n_workers"], []).append(measure(run))
    return values


def _slowness(run: Run) -> tuple[float, int]:
    slowed = run.slowed()
    return (math.inf, 0) if slowed is None else (slowed[1], len(slowed[0]))


def _slow_downs(runs: Sequence[Run]) -> tuple[dict[Path, float], int]:
    """The slow-down factor of each run, and the number of ranks that those not at full speed slow down."""
    first = None
    factors = {}
    for run in runs:
        slowed = run.slowed()
        if slowed is None:
            stragglers = run.attrs["stragglers"]
            allowed = "allowed: none, fixed:rank=,factor="
            raise UserError(f"epoch-time: {run.path}: '{stragglers}' is not one slow-down factor; {allowed}")
        ranks, factors[run.path] = slowed
        if factors[run.path] > 1:
            first = first or (run, len(ranks))
            if len(ranks) != first[1]:
                raise _differ(first[0], run, "number of slow ranks", first[1], len(ranks), "one figure holds one")
    if first is None:
        raise UserError("epoch-time: no run is slowed down; needs runs with --stragglers fixed:rank=,factor=")
    return factors, first[1]


def _compute_per_sample(run: Run) -> float:
    """Seconds of emulated compute per sample, from --compute-time; 0 without."""
    return float(run.config.get("compute_time") or 0) / float(run.config.get("batch_size") or 1)


# How they are drawn.


def _curves(runs: Sequence[Run], axes: "Axes", x: tuple[str, str], y: tuple[str, str], log: bool = False) -> str:
    """Draw a column of /evaluations against another, each given with its axis label; return the note."""
    groups = _repetitions(runs)
    drawn = []
    for group in groups:
        look = _look(group[0], runs)
        curves = [_curve(run, x[0], y[0]) for run in group]
        drawn += curves
        label = group[0].label + _ended(group)
        if log and not any(values.any() for _, values in curves):
            label += f", exactly{NO_BREAK}0"
        if len(group) > 1:
            grid, table = _on_one_grid(group, curves)
            if len(group) < INTERVAL_FROM:
                for curve in curves:
                    axes.plot(*curve, color=look["color"], linestyle=look["linestyle"], linewidth=0.5, alpha=0.6)
            else:
                axes.fill_between(grid, *_interval(table), color=look["color"], alpha=0.2, linewidth=0)
            curves = [(grid, np.median(table, axis=0))]
        xs, ys = curves[0]
        shown = np.isfinite(ys) & (ys > 0 if log else True)  # matplotlib cannot space markers along nothing
        axes.plot(xs[shown], ys[shown], label=label, markevery=0.15 if shown.any() else None, **look)
    values = np.concatenate([values for _, values in drawn])
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    if log or (len(positive) == len(values) and positive.max() >= 10 * positive.min()):
        _log_axis(axes)
    # A run that explodes must not flatten the others.
    start = max(values[0] for _, values in drawn)
    if 0 < 10 * start < values.max():
        axes.set_ylim(0.7 * positive.min() if axes.get_yscale() == "log" else None, 10 * start)
    ends = [xs[-1] for xs, _ in drawn]
    if max(ends) >= 5 * min(ends) > 0:  # else the fast runs would stand in a corner
        first = min(xs[xs > 0][0] for xs, _ in drawn)
        axes.set_xscale("symlog", linthresh=first, linscale=0.3)
        decades = 10.0 ** np.arange(math.floor(math.log10(first)), math.log10(max(ends)))
        steps = (1, 2, 5) if max(ends) < 30 * first else (1,)
        ticks = [0.0, *(step * decade for decade in decades for step in steps if step * decade >= first)]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(f"{x[1]}, logarithmic from {first:.1g} on")
    else:
        axes.set_xlabel(x[1])
    axes.set_xlim(left=0)
    axes.set_ylabel(y[1])
    return _medians(groups)


def _curve(run: Run, x: str, y: str) -> tuple[NDArray[Any], NDArray[Any]]:
    xs, ys = run.column("evaluations", x), run.column("evaluations", y)
    if not len(xs):
        raise UserError(f"{run.path}: no evaluation in /evaluations")
    return xs, np.where(np.isfinite(ys), ys, math.inf)


def _on_one_grid(
    group: list[Run], curves: list[tuple[NDArray[Any], NDArray[Any]]]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Repetitions at all points x that every run reached, shapes (points,) and (runs, points).

    A run that diverged counts as infinite from its end on: it would be worse than the median, not absent.
    """
    diverged = [run.attrs["status"] == "diverged" for run in group]
    start = max(xs[0] for xs, _ in curves)
    end = min(xs[-1] for (xs, _), gone in zip(curves, diverged, strict=True) if not gone or all(diverged))
    grid = np.unique(np.concatenate([xs for xs, _ in curves]))
    grid = grid[(grid >= start) & (grid <= end)]
    table = [
        np.interp(grid, xs, ys, right=math.inf if gone else None)
        for (xs, ys), gone in zip(curves, diverged, strict=True)
    ]
    return grid, np.nan_to_num(table, nan=math.inf, posinf=math.inf)


def _points(
    axes: "Axes", values: dict[float, list[float]], base: list[float] | None, label: str = "", **look: Any
) -> None:
    """Draw the medians of `values` against their keys, in units of the median of `base` where given."""
    unit = np.median(base) if base else 1.0
    xs = sorted(values)
    axes.plot(xs, [np.median(values[x]) / unit for x in xs], label=label, **look)
    for x in xs:
        each = np.array(values[x]) / unit
        if len(each) < INTERVAL_FROM or (base and len(base) < INTERVAL_FROM):
            if len(each) > 1:
                small = {"linestyle": "", "markersize": 3, "markerfacecolor": "none", "markeredgewidth": 0.5}
                axes.plot([x] * len(each), each, zorder=1.5, **{**look, **small})
        elif values[x] is not base:
            low, high = _ratio_interval(values[x], base) if base else _interval(np.array(values[x]))
            axes.vlines(x, low, high, color=look["color"], linewidth=0.9)
            axes.plot([x, x], [low, high], linestyle="", marker="_", markersize=5, color=look["color"])


def _interval(values: NDArray[Any]) -> tuple[Any, Any]:
    """The 95 % interval of the median along axis 0, by order statistics; 6 values or more.

    Of 10 values the 2nd and the 9th, which cover 97.9 %.
    """
    n = len(values)
    below = np.cumsum([math.comb(n, k) / 2**n for k in range(n)])  # P(at most k values are below the median)
    k = int(np.searchsorted(below, 0.025, side="right")) - 1
    ordered = np.sort(values, axis=0)
    return ordered[k], ordered[n - 1 - k]


def _ratio_interval(values: list[float], base: list[float]) -> tuple[float, float]:
    """The 95 % interval of median(values) / median(base), by bootstrap over launches."""
    rng = np.random.default_rng([BOOTSTRAP])
    above = np.median(rng.choice(values, (10_000, len(values))), axis=1)
    low, high = np.quantile(above / np.median(rng.choice(base, (10_000, len(base))), axis=1), [0.025, 0.975])
    return float(low), float(high)


def _window(run: Run) -> tuple[float, float]:
    """Middle and length, in seconds, of the part of a run that a timeline shows.

    It holds one step of the worker that is slowest by the median, about the middle of the run, and twelve
    steps of a worker at the usual speed if nobody had to wait.
    """
    rank, t_s = run.column("steps", "rank"), run.column("steps", "t_s")
    if not len(t_s) or not len(run.column("events", "rank")):
        raise UserError(f"timeline: {run.path}: no rows in /steps or in /events")
    busy = run.column("steps", "compute_s") + run.column("steps", "injected_s")
    usual = {of_rank: np.median(busy[rank == of_rank]) for of_rank in np.unique(rank)}
    slowest = max(usual, key=lambda of_rank: usual[of_rank])
    ends = np.concatenate([[0.0], np.sort(t_s[rank == slowest])])
    k = min(int(np.searchsorted(ends[1:], t_s.max() / 2)), len(ends) - 2)
    step = ends[k + 1] - ends[k]
    return float(ends[k] + step / 2), float(max(1.1 * step, 12 * np.median(list(usual.values()))))


def _spans(run: Run, kinds: Collection[str], start: float, end: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Ranks (rows,) and (begin, duration) (rows, 2) in seconds from `start` of the events between the two."""
    t_start, t_end = run.column("events", "t_start_s"), run.column("events", "t_end_s")
    inside = np.isin(run.column("events", "kind"), [KIND[kind] for kind in kinds]) & (t_end > start) & (t_start < end)
    begin = np.maximum(t_start[inside], start)
    return run.column("events", "rank")[inside], np.stack([begin - start, np.minimum(t_end[inside], end) - begin], 1)


def _look(run: Run, runs: Sequence[Run]) -> dict[str, Any]:
    """Colour and marker of the run's program, dashes of its stragglers among those of the figure."""
    algorithm, stragglers = run.attrs["algorithm"], run.attrs["stragglers"]
    others = sorted({other.attrs["algorithm"] for other in runs} - PROGRAMS.keys())
    colour, marker = VARIANTS.get(run.name) or PROGRAMS.get(algorithm) or OTHERS[others.index(algorithm) % len(OTHERS)]
    levels = sorted({(_slowness(other), other.attrs["stragglers"]) for other in runs})
    texts = ["none", *(text for _, text in levels if text != "none")]
    if len(texts) > len(DASHES):
        raise UserError(f"{len(texts) - 1} straggler settings in one figure; allowed: {len(DASHES) - 1} besides none")
    return {"color": colour, "marker": marker, "linestyle": DASHES[texts.index(stragglers)]}


def _medians(groups: Sequence[Sequence[Any]]) -> str:
    """What a figure says of its repetitions; nothing where there are none."""
    counts = sorted({len(group) for group in groups})
    if counts == [1]:
        return ""
    number = f"{counts[0]} runs" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} runs"
    thin = ", thin: each run" if counts[0] < INTERVAL_FROM else ""
    interval = ", with 95 % intervals" if counts[-1] >= INTERVAL_FROM else ""
    return f"medians of {number}{thin}{interval}"


def _ended(group: Sequence[Run]) -> str:
    """What a label says of runs that did not come to their end."""
    statuses = [run.attrs["status"] for run in group]
    of = f"of {len(group)} " if len(group) > 1 else ""
    counts = {status: statuses.count(status) for status in ("partial", "diverged") if status in statuses}
    return "".join(f", {f'{count} {of}' if of else ''}{status}" for status, count in counts.items())


def _facts(runs: Sequence[Run], note: str) -> str:
    """What every figure states: problem, split, workers, claim class, emulated compute time."""
    attrs, config = runs[0].attrs, runs[0].config
    counts = sorted({run.attrs["n_workers"] for run in runs})
    workers = (
        f"{counts[0]} worker{'s' * (counts[0] > 1)}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} workers"
    )
    claim = attrs["claim_class"]
    if _compute_per_sample(runs[0]):
        claim += f": compute slept to {1e3 * config['compute_time']:g} ms per {config['batch_size']} samples"
    kinds = " and ".join(dict.fromkeys(run.attrs["split"] for run in runs))
    facts = [attrs["problem"], f"split {kinds}", workers, note, claim]
    whole = [fact.replace(" ", NO_BREAK) for fact in facts if fact]
    return _wrapped("; ".join(whole))


def _wrapped(text: str, width: int = LINE) -> str:
    """The text in lines that fit; the commas of a SPEC become places to break."""
    return textwrap.fill(re.sub(r",(?=\S)", ", ", text), width)


def _lines(texts: list[str]) -> int:
    return sum(text.count("\n") + 1 for text in texts)


def _log_axis(axes: "Axes") -> None:
    """Make the y axis logarithmic, with more ticks the fewer decades it has; zeros are not drawn."""
    import matplotlib.ticker

    axes.set_yscale("log", nonpositive="mask")
    low, high = axes.get_ylim()
    subs = (1, 1.5, 2, 3, 4, 5, 6, 8) if high < 5 * low else (1, 2, 5) if high < 300 * low else (1,)
    axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(_plain)
    axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def _plain(value: float, _: float) -> str:
    """A tick label without an exponent above the line, which would be smaller than 8 pt."""
    return f"{value:g}".replace("e-0", "e-").replace("e+0", "e")


def _percent(share: float, _: float) -> str:
    return f"{100 * share:g} %"


def _log_ticks(axes: "Axes", ticks: Sequence[float]) -> None:
    """A logarithmic x axis with a tick at each of these values."""
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)


def _add_legend(figure: "Figure") -> None:
    """One legend below all panels, in as many columns as fit; the figure grows by its height."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if not entries:
        return
    labels = [_wrapped(label, ENTRY) for label in entries]
    for columns in (3, 2, 1):
        legend = figure.legend(entries.values(), labels, loc="outside lower center", ncols=columns)
        box = legend.get_window_extent()
        if box.width <= figure.bbox.width or columns == 1:
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + box.height / figure.dpi)


def _style() -> Any:
    """The style of all figures, whatever the user's matplotlibrc says."""
    import matplotlib.style

    return matplotlib.style.context(["default", STYLE])
