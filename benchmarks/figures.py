"""The figures over traces, behind `outpace plot`: one function each, all in the table FIGURES.

A figure function gets the runs and an empty matplotlib figure of one column's width, fills it and returns
what its readers must know of how repetitions are drawn. `compose` adds what every figure states (problem,
split, workers, claim class) and the legend outside of the data. A new figure is one function and one row of
FIGURES; the first line of its docstring is what `outpace plot` lists.
"""

import math
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from outpace.benchmarks.drawing import (
    DASHES,
    ENTRY,
    HEIGHT,
    INTERVAL_FROM,
    LAW,
    LINE,
    LINE_HEIGHT,
    NO_BREAK,
    WIDTH,
    add_legend,
    check_same_settings,
    compute_per_sample,
    difference,
    draw_curves,
    draw_points,
    facts_of,
    grouped,
    house_style,
    how_ended,
    how_repeated,
    interval_of_median,
    line_count,
    log_axis,
    log_ticks,
    look_of,
    repetitions,
    wrapped,
)
from outpace.benchmarks.reading import Run
from outpace.benchmarks.schema import KIND
from outpace.benchmarks.sweep_figures import heterogeneity, loss_facets
from outpace.comm.spec import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES: Final = (".pdf", ".png", ".svg")
SAMPLES: Final[dict[str, Any]] = {"facecolor": "0.85", "hatch": "////", "edgecolor": "0.5", "linewidth": 0.6}

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
    "heterogeneity": ("split", "n_workers"),
    "loss-facets": ("split", "n_workers"),
}


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
        with house_style():
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
    with house_style():
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        note = FIGURES[name](runs, figure)
        facts = figure.suptitle(facts_of(runs, note, figure.get_figwidth()), x=0.01, ha="left", color="0.3")
        figure.set_figheight(figure.get_figheight() + facts.get_window_extent().height / figure.dpi)
        add_legend(figure)
    return figure


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


def suboptimality_gradients(runs: Sequence[Run], figure: "Figure") -> str:
    """Suboptimality against gradients of single samples, in passes over the data."""
    x = "gradients", "gradients of samples, in passes over the data"
    return draw_curves(runs, figure.add_subplot(), x, ("suboptimality", "suboptimality"), log=True)


def suboptimality_rounds(runs: Sequence[Run], figure: "Figure") -> str:
    """Suboptimality against rounds of communication, of synchronous programs."""
    x = "rounds", "rounds of communication"
    return draw_curves(runs, figure.add_subplot(), x, ("suboptimality", "suboptimality"), log=True)


def batches(runs: Sequence[Run], figure: "Figure") -> str:
    """Rounds per epoch of SVRG and Katyusha X, and passes to 1e-8 of the start's suboptimality, against batch size."""
    rounds, passes = figure.subplots(2, 1, sharex=True)
    figure.set_figheight(2 * HEIGHT)
    groups = []
    for members in grouped(runs, "algorithm"):
        look = {**look_of(members[0], runs), "linestyle": DASHES[0]}
        per_epoch: dict[float, list[float]] = {}
        to_target: dict[float, list[float]] = {}
        for run in members:
            check_same_settings(members[0], run, besides=("batch_size",))
            b = run.config["batch_size"]
            per_epoch.setdefault(b, []).append(run.rounds_per_step())
            to_target.setdefault(b, []).append(run.effort_to(1e-8))
        groups += list(to_target.values())
        draw_points(rounds, per_epoch, None, label=members[0].name + how_ended(members), **look)
        draw_points(passes, to_target, None, **look)
    sizes = sorted({run.config["batch_size"] for run in runs})
    b, N = np.array(sizes), runs[0].attrs["n_total"]
    rounds.plot(b, 1 + np.ceil(N / b), label="mean of the law: 1 + ⌈N/b⌉", dashes=(5, 2), **LAW)
    passes.axvline(N**0.5, label="b = √N", dashes=(1.5, 1.5), **LAW)
    log_ticks(passes, sizes)
    log_axis(rounds)
    if np.isfinite([each for group in groups for each in group]).any():
        log_axis(passes)
    passes.set_xlabel("batch size b of all workers together")
    rounds.set_ylabel("rounds per epoch")
    passes.set_ylabel("passes to 1e-8 of the\nstart's suboptimality")
    return how_repeated(groups)


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


def epoch_time(runs: Sequence[Run], figure: "Figure") -> str:
    """Time per epoch against the factor of the slow ranks, in seconds and over the same without them."""
    groups = repetitions(runs)
    factors, count = _slow_downs(runs)
    n = runs[0].attrs["n_workers"]
    absolute, relative = figure.subplots(2, 1, sharex=True)
    figure.set_figheight(2 * HEIGHT)
    for members in grouped(runs, "algorithm"):
        times: dict[float, list[float]] = {}
        for run in members:
            check_same_settings(members[0], run, besides=("stragglers",))
            times.setdefault(factors[run.path], []).append(run.epoch_time())
        name = members[0].name + how_ended(members)
        if 1.0 not in times:
            raise UserError(f"epoch-time: no run of {members[0].name} with --stragglers none to compare with")
        look = {**look_of(members[0], runs), "linestyle": DASHES[0]}
        draw_points(absolute, times, None, label=name, **look)
        draw_points(relative, times, times[1.0], **look)
    s = np.geomspace(1, max(factors.values()), 100)
    relative.plot(s, s, label="ideal synchronous: s", dashes=(1.5, 1.5), **LAW)
    law = f"ideal asynchronous: n/(n − {count} + {count}/s)"
    relative.plot(s, n / (n - count + count / s), label=law, dashes=(5, 2), **LAW)
    log_ticks(relative, sorted(set(factors.values())))
    log_axis(absolute)
    log_axis(relative)
    relative.set_xlabel(f"injected slow-down s of {'one rank' if count == 1 else f'{count} ranks'} of {n}")
    absolute.set_ylabel("time per epoch (s)")
    relative.set_ylabel("time per epoch over\nthat without stragglers")
    return how_repeated(groups)


def speed_up(runs: Sequence[Run], figure: "Figure") -> str:
    """Samples per second against the number of workers, over those of the smallest number."""
    groups = _scaling("speed-up", runs)
    axes = figure.add_subplot()
    smallest = set()
    for members in grouped(runs, "algorithm", "stragglers"):
        rates = _by_workers(members, Run.samples_per_s)
        least = min(rates)
        smallest.add(least)
        base = f"{float(f'{np.median(rates[least]):.3g}'):g}/s at n = {least}"
        label = f"{members[0].label} ({base.replace(' ', NO_BREAK)}){how_ended(members)}"
        draw_points(axes, rates, rates[least], label=label, **look_of(members[0], runs))
    counts = sorted({run.attrs["n_workers"] for run in runs})
    for least in smallest:
        ideal = [1, counts[-1] / least]
        axes.plot([least, counts[-1]], ideal, label="ideal: proportional to n", dashes=(5, 2), **LAW)
    log_ticks(axes, counts)
    log_axis(axes)
    axes.set_xlabel("workers n")
    axes.set_ylabel("samples/s over those\nat the smallest n")
    return how_repeated(groups)


def steps_rate(runs: Sequence[Run], figure: "Figure") -> str:
    """Gradients per second against the number of workers, and what the busiest rank sends or receives for them."""
    groups = _scaling("steps-rate", runs)
    rate, traffic = figure.subplots(2, 1, sharex=True)
    figure.set_figheight(2 * HEIGHT)
    for members in grouped(runs, "algorithm", "stragglers"):
        look = look_of(members[0], runs)
        label = members[0].label + how_ended(members)
        draw_points(rate, _by_workers(members, Run.steps_per_s), None, label=label, **look)
        draw_points(traffic, _by_workers(members, lambda run: run.busiest_nbytes() / 1e6), None, **look)
    counts = sorted({run.attrs["n_workers"] for run in runs})
    log_ticks(traffic, counts)
    log_axis(rate)
    log_axis(traffic)
    traffic.set_xlabel("workers n")
    rate.set_ylabel("gradients/s")
    traffic.set_ylabel("busiest rank: MB per\ngradient of each worker")
    return how_repeated(groups)


def splits(runs: Sequence[Run], figure: "Figure") -> str:
    """Final loss over that of AllReduce-SGD with the same seed, by split and number of workers."""

    def world(run: Run) -> tuple[int, bool, str]:
        return run.attrs["n_workers"], run.attrs["split"] != "iid", run.attrs["split"]

    base = {(world(run), run.attrs["seed"]): run for run in runs if run.attrs["algorithm"] == "allreduce_sgd"}
    worlds = sorted({world(run) for run in runs})
    groups = [group for place in worlds for group in repetitions([run for run in runs if world(run) == place])]
    others = [members for members in grouped(runs, "algorithm") if members[0].attrs["algorithm"] != "allreduce_sgd"]
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


def shares(runs: Sequence[Run], figure: "Figure") -> str:
    """Each worker's share of the applied gradients beside its share of the samples."""
    groups = repetitions(runs)
    panels = figure.subplots(len(groups), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    titles = [wrapped(group[0].label + how_ended(group), ENTRY) for group in groups]
    figure.set_figheight(0.3 + 0.8 * len(groups) + LINE_HEIGHT * line_count(titles))
    n = runs[0].attrs["n_workers"]
    workers = np.arange(n)
    for axes, group, title in zip(panels, groups, titles, strict=True):
        data, updates = (
            np.array([run.column("workers", name) for run in group]) for name in ("data_share", "update_share")
        )
        colour = look_of(group[0], runs)["color"]
        axes.bar(workers - 0.2, np.median(data, axis=0), 0.4, label="share of the samples", **SAMPLES)
        axes.bar(workers + 0.2, np.median(updates, axis=0), 0.4, color=colour, label="share of the applied gradients")
        if len(group) >= INTERVAL_FROM:
            axes.vlines(workers + 0.2, *interval_of_median(updates), color="black", linewidth=0.9)
        elif len(group) > 1:
            for each in updates:
                axes.plot(workers + 0.2, each, "_", color="black", markersize=5, markeredgewidth=0.7)
        axes.axhline(1 / n, label="weight in the objective: 1/n", dashes=(5, 2), **LAW)
        axes.yaxis.set_major_formatter(_percent)
        axes.set_title(title)
        axes.set_ylabel("share")
    panels[-1].set_xticks(workers[:: math.ceil(n / 16)])
    panels[-1].set_xlabel("worker")
    return how_repeated(groups)


def staleness(runs: Sequence[Run], figure: "Figure") -> str:
    """Share of the gradients by their staleness, with the mean and the reference n - 1."""
    groups = repetitions(runs)
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
        wrapped(f"{group[0].label}: mean {mean:.3g}{how_ended(group)}", ENTRY)
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
        axes.axvline(reference, label=f"n − 1 = {reference}", dashes=(5, 2), **LAW)
        axes.set_title(title, pad=8)
        axes.set_ylabel("share of the\ngradients")
    panels[0].set_yscale("log")
    panels[0].set_ylim(floor, 1.5)
    decades = 10.0 ** np.arange(math.ceil(math.log10(floor)), 1)
    panels[0].set_yticks(decades, [f"{100 * share:g} %" for share in decades])
    panels[0].set_yticks([], minor=True)
    panels[-1].set_xlabel("staleness (gradients applied meanwhile)")
    return how_repeated(groups)


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
        titles.append(wrapped(f"{run.label}{seed}, {begin}{how_ended([run])}", LINE - 5))
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
    "heterogeneity": heterogeneity,
    "loss-facets": loss_facets,
}


def _scaling(name: str, runs: Sequence[Run]) -> list[list[Run]]:
    """The repetitions of runs that may show how a rate grows with the workers, of each program at two sizes or more."""
    for run in runs:
        if run.attrs["claim_class"] == "emulated" and not compute_per_sample(run):
            raise UserError(
                f"{name}: ranks of {run.path} shared cores, which allows no claim of speed-up; "
                "allowed: runs with --compute-time, or with a core for each rank"
            )
    groups = repetitions(runs)
    for members in grouped(runs, "algorithm", "stragglers"):
        if len({run.attrs["n_workers"] for run in members}) == 1:
            raise UserError(f"{name}: {members[0].label}: needs runs with two or more numbers of workers")
    return groups


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
                raise difference(first[0], run, "number of slow ranks", first[1], len(ranks), "one figure holds one")
    if first is None:
        raise UserError("epoch-time: no run is slowed down; needs runs with --stragglers fixed:rank=,factor=")
    return factors, first[1]


def _by_workers(runs: Sequence[Run], measure: Callable[[Run], float]) -> dict[float, list[float]]:
    values: dict[float, list[float]] = {}
    for run in runs:
        values.setdefault(run.attrs["n_workers"], []).append(measure(run))
    return values


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


def _percent(share: float, _: float) -> str:
    return f"{100 * share:g} %"


def _check_shared(name: str, runs: Sequence[Run]) -> None:
    for run in runs[1:]:
        for attribute in SHARED:
            values = runs[0].attrs[attribute], run.attrs[attribute]
            if attribute not in ABOUT.get(name, ()) and values[0] != values[1]:
                raise difference(runs[0], run, attribute, *values, "one figure holds one")
        compute = compute_per_sample(runs[0]), compute_per_sample(run)
        if not math.isclose(*compute, rel_tol=1e-6):
            raise difference(runs[0], run, "compute time per sample", *compute, "one figure holds one")
