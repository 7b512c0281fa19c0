"""Simulated runs beside the real ones that they predict: which belong together, and how far apart they are."""

import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from outpace.benchmarks.figures import links
from outpace.benchmarks.figures.drawing import how_repeated, log_ticks, together
from outpace.benchmarks.figures.grouping import grouped
from outpace.benchmarks.figures.looks import level_of, look_of
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIMULATED: Final = "simulated"  # the claim class
PROMISED: Final = {"compute": 0.05, "communication": 0.15}  # error, by what bounds a run
BOUND: Final = 1.5  # times the compute time: from such a step on communication bounds a run
HEIGHT: Final = 3.6  # inches

Pair = tuple[list[Run], list[Run]]  # real runs and simulated ones, of one setting


def pairs(runs: Sequence[Run]) -> list[Pair]:
    """Real and simulated runs with the same program, workers, stragglers and links. Raises UserError where a simulated
    run has no real one beside it, or where there is none."""
    found = []
    for group in grouped(runs, level_of, lambda run: run.attrs["n_workers"]):
        simulated = [run for run in group if run.attrs["claim_class"] == SIMULATED]
        real = [run for run in group if run not in simulated]
        if simulated and not real:
            raise UserError(f"{simulated[0].path}: no real run beside it, of the same program, stragglers and links")
        if simulated:
            found.append((real, simulated))
    if not found:
        raise UserError(f"{runs[0].path}: no simulated run beside it, as `outpace run --simulate` makes them")
    return found


def step_s(run: Run) -> float:
    """Seconds from one gradient of a worker to its next, the median over all of them."""
    rank, t_s = run.column("steps", "rank"), run.column("steps", "t_s")
    steps = [np.diff(t_s[rank == worker]) for worker in np.unique(rank)]
    if not steps or not any(map(len, steps)):
        raise UserError(f"{run.path}: no two steps of a worker in /steps, so no time of a step")
    return float(np.median(np.concatenate(steps)))


def gradient_s(run: Run) -> float:
    """Seconds in which all workers together make a gradient, in the mean of the whole run."""
    return 1 / run.steps_per_s()


def error(pair: Pair, measure: Callable[[Run], float]) -> float:
    """Of the simulated median, over the real one."""
    real, simulated = (statistics.median(map(measure, runs)) for runs in pair)
    return simulated / real - 1


def bound(run: Run) -> str:
    """What bounds a real run, a key of PROMISED: communication where a step takes much longer than its gradient."""
    compute_s = float(run.config.get("compute_time") or 0)
    return "communication" if step_s(run) > BOUND * compute_s else "compute"


def validation(runs: Sequence[Run], figure: "Figure") -> str:
    """Simulated runs over the real ones that they predict: the median step and the whole run."""
    together_with = pairs(runs)
    figure.set_figheight(HEIGHT)
    panels = figure.subplots(2, 1, sharex=True)
    real = [run for pair in together_with for run in pair[0]]
    for axes, (measure, label) in zip(panels, MEASURES.items(), strict=True):
        for promise in PROMISED.values():
            axes.axhspan(-100 * promise, 100 * promise, color="0.5", alpha=0.15, linewidth=0)
        axes.axhline(0.0, color="0.25", linewidth=0.9)
        named = set[str]()
        for pair in together_with:
            first = pair[0][0]
            look: dict[str, Any] = look_of(first, real, told=True) | {"linestyle": ""}
            name = "_" * (first.name in named) + first.name  # once in the legend
            named.add(first.name)
            axes.plot(statistics.median(map(step_s, pair[0])), 100 * error(pair, measure), label=name, **look)
        axes.set_ylabel(label)
    steps = sorted(statistics.median(map(step_s, pair[0])) for pair in together_with)
    low, high = 0.8 * steps[0], 1.25 * steps[-1]
    ticks = [step * 10.0**power for power in range(-6, 6) for step in (1, 2, 5) if low <= step * 10.0**power <= high]
    panels[-1].set_xlim(low, high)  # before the scale is logarithmic: of one value there is no range
    log_ticks(panels[-1], ticks or [round(steps[0], 4)])
    panels[-1].set_xlabel("median step of the real run (s)")
    bands = " and ".join(f"{100 * promise:g} %" for promise in PROMISED.values())
    settings = dict.fromkeys(links.in_words(run.links) for run in real)
    return together([how_repeated([pair[0] for pair in together_with]), f"bands: {bands}", ", ".join(settings)])


MEASURES: Final[dict[Callable[[Run], float], str]] = {
    step_s: "error of the step (%)",
    gradient_s: "error of the whole run (%)",
}
