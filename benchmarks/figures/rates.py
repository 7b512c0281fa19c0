"""Figures of rates: how fast, against workers, delays, batch sizes and step sizes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from outpace.benchmarks.figures.drawing import (
    draw_points,
    how_ended,
    log_axis,
    log_ticks,
    side_by_side,
    together,
    told_of_points,
)
from outpace.benchmarks.figures.grouping import (
    SIZE,
    check_same_settings,
    check_same_surroundings,
    compute_per_sample,
    difference,
    grouped,
    repetitions,
)
from outpace.benchmarks.figures.looks import LAW, label_of, level_of, look_of
from outpace.benchmarks.figures.page import HEIGHT, NO_BREAK
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def epoch_time(runs: Sequence[Run], figure: "Figure") -> str:
    """Time per epoch against the factor of the slow ranks, in seconds and over the same without them."""
    groups = repetitions(runs)
    factors, count = _slow_downs(runs)
    sizes = sorted({run.attrs["n_workers"] for run in runs})
    absolute, relative = figure.subplots(2, 1, sharex=True)
    figure.set_figheight(2 * HEIGHT)
    for members in grouped(runs):
        times: dict[float, list[float]] = {}
        first: dict[float, Run] = {}
        for run in members:
            check_same_settings(members[0], run, besides=("stragglers",))
            at = first.setdefault(factors[run.path], run)
            if at.attrs["stragglers"] != run.attrs["stragglers"]:
                raise difference(at, run, "stragglers", at.level, run.level, "so they cannot share a point")
            times.setdefault(factors[run.path], []).append(run.epoch_time())
        name = members[0].name + how_ended(members)
        if 1.0 not in times:
            raise UserError(f"epoch-time: no run of {members[0].name} with --stragglers none to compare with")
        look = look_of(members[0], runs, told=True)
        draw_points(absolute, times, None, label=name, **look)
        draw_points(relative, times, times[1.0], **look)
    s = np.geomspace(1, max(factors.values()), 100)
    relative.plot(s, s, label="ideal synchronous: s", dashes=(1.5, 1.5), **LAW)
    law = f"ideal asynchronous: n/(n − {count} + {count}/s)"
    for n in sizes:
        relative.plot(s, n / (n - count + count / s), label=law, dashes=(5, 2), **LAW)
    log_ticks(relative, sorted(set(factors.values())))
    log_axis(absolute)
    log_axis(relative)
    slow = "one rank" if count == 1 else f"{count} ranks"
    relative.set_xlabel(f"injected slow-down s of {slow} of {' or '.join(map(str, sizes))}")
    absolute.set_ylabel("time per epoch (s)")
    relative.set_ylabel("time per epoch over\nthat without stragglers")
    return told_of_points(groups)


def speed_up(runs: Sequence[Run], figure: "Figure") -> str:
    """Samples per second against the number of workers, over those of the smallest number."""
    groups = _scaling("speed-up", runs)
    axes = figure.add_subplot()
    smallest = set()
    for members in grouped(runs, level_of):
        rates = _by_workers(members, Run.samples_per_s)
        least = min(rates)
        smallest.add(least)
        base = f"{float(f'{np.median(rates[least]):.3g}'):g}/s at n = {least:g}"
        label = f"{label_of(members[0], runs)} ({base.replace(' ', NO_BREAK)}){how_ended(members)}"
        draw_points(axes, rates, rates[least], label=label, **look_of(members[0], runs))
    counts = sorted({run.attrs["n_workers"] for run in runs})
    for least in smallest:
        ideal = [1, counts[-1] / least]
        axes.plot([least, counts[-1]], ideal, label="ideal: proportional to n", dashes=(5, 2), **LAW)
    log_ticks(axes, counts)
    log_axis(axes)
    axes.set_xlabel("workers n")
    axes.set_ylabel("samples/s over those\nat the smallest n")
    return told_of_points(groups)


def steps_rate(runs: Sequence[Run], figure: "Figure") -> str:
    """Gradients per second against the number of workers, and what the busiest rank sends or receives for them."""
    groups = _scaling("steps-rate", runs)
    rate, traffic = figure.subplots(2, 1, sharex=True)
    figure.set_figheight(2 * HEIGHT)
    curves = grouped(runs, level_of)
    for k, members in enumerate(curves):
        look = look_of(members[0], runs)
        label = label_of(members[0], runs) + how_ended(members)
        place = side_by_side(k, len(curves))  # stragglers change no bytes: curves would coincide
        draw_points(rate, _by_workers(members, Run.steps_per_s, place), None, label=label, **look)
        draw_points(traffic, _by_workers(members, _busiest_mb, place), None, **look)
    counts = sorted({run.attrs["n_workers"] for run in runs})
    log_ticks(traffic, counts)
    log_axis(rate)
    log_axis(traffic)
    traffic.set_xlabel("workers n")
    rate.set_ylabel("gradients/s")
    traffic.set_ylabel("busiest rank: MB per\ngradient of each worker")
    return told_of_points(groups, "n" if len(curves) > 1 else "")


def batches(runs: Sequence[Run], figure: "Figure") -> str:
    """Rounds per epoch of SVRG and Katyusha X, and passes to 1e-8 of the start's suboptimality, against batch size."""
    rounds, passes = figure.subplots(2, 1, sharex=True)
    figure.set_figheight(2 * HEIGHT)
    groups = []
    programs = grouped(runs)
    for k, members in enumerate(programs):
        look = look_of(members[0], runs, told=True)
        place = side_by_side(k, len(programs))  # two with one law would coincide
        per_epoch: dict[float, list[float]] = {}
        to_target: dict[float, list[float]] = {}
        for run in members:
            check_same_settings(members[0], run, besides=("batch_size", "compute_time"))
            b = place * run.config["batch_size"]
            per_epoch.setdefault(b, []).append(run.rounds_per_step())
            to_target.setdefault(b, []).append(run.effort_to(1e-8))
        groups += list(to_target.values())
        draw_points(rounds, per_epoch, None, label=members[0].name + how_ended(members), **look)
        draw_points(passes, to_target, None, **look)
    sizes = sorted({run.config["batch_size"] for run in runs})
    if len(sizes) == 1:
        raise UserError(f"batches: all runs have the batch size {sizes[0]}; needs two or more")
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
    return together([_missed(groups), told_of_points(groups, "b" if len(programs) > 1 else "")])


def step_sizes(runs: Sequence[Run], figure: "Figure") -> str:
    """Passes to 1e-8 of the start's suboptimality against the step size, over that of SVRG's analysis."""
    axes = figure.add_subplot()
    groups, multiples = list[list[float]](), set[float]()
    for members in grouped(runs):
        passes: dict[float, list[float]] = {}
        for run in members:
            check_same_settings(members[0], run, besides=("step_size",))
            passes.setdefault(_over_analysed(run), []).append(run.effort_to(1e-8))
        groups += list(passes.values())
        multiples |= passes.keys()
        look = look_of(members[0], runs, told=True)
        draw_points(axes, passes, None, label=members[0].name + how_ended(members), **look)
    if len(multiples) == 1:
        raise UserError(
            f"step-sizes: all runs have the step size {min(multiples):g} of the analysis; needs two or more"
        )
    log_ticks(axes, sorted(multiples))
    if np.isfinite([each for group in groups for each in group]).any():
        log_axis(axes)
    axes.set_xlabel("step size, over that of the analysis")
    axes.set_ylabel("passes to 1e-8 of the\nstart's suboptimality")
    b = sorted({run.config["batch_size"] for run in runs})
    return together([f"b = {' and '.join(map(str, b))}", _missed(groups), told_of_points(groups)])


def _missed(groups: Sequence[Sequence[float]]) -> str:
    """Why curves that are drawn have no point at some places."""
    reached = [bool(np.isfinite(np.median(group))) for group in groups]
    return "no point: not reached" if any(reached) and not all(reached) else ""


def _over_analysed(run: Run) -> float:
    """The run's step size over that of SVRG's analysis, to three digits."""
    constants = run.objects.get("constants", {})
    if not all(
        isinstance(constants.get(name), int | float) and constants[name] > 0 for name in ("m", "L", "step_size")
    ):
        raise UserError(f"step-sizes: {run.path}: no smoothness is known; allowed: runs of svrg and katyusha_x with L")
    analysed = min(1, (run.config["batch_size"] / constants["m"]) ** 0.5) / (2 * constants["L"])
    return float(f"{constants['step_size'] / analysed:.3g}")


def _busiest_mb(run: Run) -> float:
    """Of the busiest rank; with --wire-bytes as of a model of so many, which the caption speaks of."""
    wire = run.config.get("wire_bytes")
    scale = wire / (run.attrs["dim"] * np.dtype(run.config["dtype"]).itemsize) if wire else 1.0
    return float(scale * run.busiest_nbytes() / 1e6)


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


def _scaling(name: str, runs: Sequence[Run]) -> list[list[Run]]:
    """The repetitions of runs that may show how a rate grows with the workers, of each program at two sizes or more."""
    for run in runs:
        if run.attrs["claim_class"] == "emulated" and not compute_per_sample(run):
            raise UserError(
                f"{name}: ranks of {run.path} shared cores, which allows no claim of speed-up; "
                "allowed: runs with --compute-time, or with a core for each rank"
            )
    groups = repetitions(runs)
    for members in grouped(runs, level_of):
        for run in members:
            check_same_surroundings(members[0], run, besides=SIZE)
        if len({run.attrs["n_workers"] for run in members}) == 1:
            raise UserError(f"{name}: {label_of(members[0], runs)}: needs runs with two or more numbers of workers")
    return groups


def _by_workers(runs: Sequence[Run], measure: Callable[[Run], float], place: float = 1.0) -> dict[float, list[float]]:
    """What was measured by number of workers, times the `place` of the curve beside its ticks."""
    values: dict[float, list[float]] = {}
    for run in runs:
        values.setdefault(place * run.attrs["n_workers"], []).append(measure(run))
    return values
