"""One bit against 32: Signum with a majority vote beside AllReduce-SGD and Adam, over the rate of the links."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from outpace.benchmarks import figures
from outpace.benchmarks.studies import tuning
from outpace.benchmarks.studies.launches import trace
from outpace.benchmarks.trace.common_loss import common_loss
from outpace.benchmarks.trace.run import Run

WORKERS: Final = 4
BATCH: Final = 16  # of each worker
COMPUTE_TIME_S: Final = 0.05  # of a gradient: with one of 1M parameters four workers keep two cores busy for as long
SHORT: Final = 8  # steps of a run that gives the time of a step and no more
LONGEST_S: Final = 60.0  # of a run that is made whole
ONE_BIT: Final = "Signum"

# Program, flags, and where the search for the step size begins, which is constant over a run.
PROGRAMS: Final[dict[str, tuple[str, tuple[str, ...], int]]] = {
    "AllReduce-SGD": ("allreduce_sgd", (), -1),
    "Adam": ("allreduce_sgd", ("--rule", "adam"), -5),
    ONE_BIT: ("sign_sgd", ("--variant", "signum"), -7),
}


@dataclass(frozen=True)
class Time:
    """What a program takes behind links of one rate."""

    step_s: float  # median
    to_loss_s: float
    measured: bool  # in a run made whole; else steps x step_s


def bits(
    folder: Path, hidden: int = 13_400, epochs: float = 3, rates: Sequence[float] = (20, 100, 1000, 2500, 5000)
) -> dict[str, dict[float, float]]:
    """program -> rate of every link in Mbit/s, infinite without links -> seconds to the common loss, over Signum's.

    Digits by a perceptron of 75 parameters for each hidden unit, float32. The step sizes are tuned without links, by
    the loss after so many epochs: what synchronous programs compute does not depend on the network. For the same reason
    a run that would take more than LONGEST_S is not made whole: a few of its steps are timed, and the number of steps
    is that of the run without links. Draws `bandwidth` of the runs made whole.
    """

    def run(name: str, step_size: float, links: str, seed: int, epochs: float) -> Run:
        program, flags, _ = PROGRAMS[name]
        out = folder / f"{name}-{step_size:g}-{links.replace(':', '-')}-{seed}-{epochs:.3g}.h5"
        flags += ("--problem", f"digits:hidden={hidden}", "--batch-size", str(BATCH), "--schedule", "constant")
        flags += ("--compute-time", str(COMPUTE_TIME_S), "--step-size", f"{step_size:g}", "--links", links)
        flags += ("--epochs", f"{epochs:.5g}", "--evaluations", "10", "--seed", str(seed))
        return trace(out, program, WORKERS, *flags)

    free: dict[str, tuple[float, Run]] = {}
    grids = Table("", "loss by step size", title=f"the grid: seed {tuning.SEED}, {WORKERS} workers, {epochs:g} epochs")
    for name, (_, _, first) in PROGRAMS.items():

        def loss_of(step_size: float, name: str = name) -> float:
            return run(name, step_size, "none", tuning.SEED, epochs).final_loss()

        best, losses = tuning.tuned(loss_of, first)
        free[name] = best, run(name, best, "none", 0, epochs)
        grids.add_row(name, ", ".join(f"{step_size:g}: {loss:.4g}" for step_size, loss in losses.items()))
    target = common_loss([whole for _, whole in free.values()])
    times: dict[str, dict[float, Time]] = {name: {} for name in PROGRAMS}
    made_whole = []
    for rate in (*rates, math.inf):
        links = "none" if math.isinf(rate) else f"all:rate={rate:g}mbit"
        for name, (best, unlinked) in free.items():
            taken = epochs * unlinked.attrs["n_total"] / (WORKERS * BATCH)
            on_link_s = unlinked.busiest_nbytes() * 8e-6 / rate
            whole = taken * (step_s(unlinked) + on_link_s) < LONGEST_S
            made = run(name, best, links, 0, epochs if whole else epochs * SHORT / taken)
            seconds = made.time_to_loss(target) if whole else steps_to(unlinked, target) * step_s(made)
            times[name][rate] = Time(step_s(made), math.inf if seconds is None else seconds, whole)
            made_whole += [made.path] if whole else []
    ratios = {
        name: {rate: time.to_loss_s / times[ONE_BIT][rate].to_loss_s for rate, time in of_rate.items()}
        for name, of_rate in times.items()
    }
    console = Console(width=120)
    console.print(grids, _table(times, ratios, target))
    for name in [name for name in PROGRAMS if name != ONE_BIT]:
        console.print(f"{ONE_BIT} as fast as {name}: {_in_words(crossover(ratios[name]), rates)}")
    figures.draw("bandwidth", made_whole, folder / "bandwidth.png", loss=target)
    print(f"wrote {folder / 'bandwidth.png'}")
    return ratios


def step_s(run: Run) -> float:
    """Seconds of a step of worker 0, median; without the first, which also connects."""
    return float(np.median(np.diff(run.column("steps", "t_s")[run.column("steps", "rank") == 0])))


def steps_to(run: Run, target: float) -> float:
    """Steps of a worker to the loss, infinite where it is not reached; between evaluations in proportion to time."""
    seconds = run.time_to_loss(target)
    if seconds is None:
        return math.inf
    samples = np.interp(seconds, run.column("evaluations", "t_s"), run.column("evaluations", "samples"))
    return float(samples / (WORKERS * BATCH))


def crossover(ratios: Mapping[float, float]) -> float | None:
    """The rate at which the ratio is 1, between two at which it is on either side, on logarithmic scales; the lowest.
    None where there is none between two finite rates.

    >>> crossover({10.0: 4.0, 1000.0: 0.25, math.inf: 0.2})
    100.0
    """
    rates = sorted(rate for rate in ratios if math.isfinite(rate))
    for low, high in itertools.pairwise(rates):
        above, below = math.log(ratios[low]), math.log(ratios[high])
        if above * below <= 0 and above != below:
            share = above / (above - below)
            return float(f"{low * (high / low) ** share:.12g}")
    return None


def _in_words(rate: float | None, rates: Sequence[float]) -> str:
    if rate is None:
        return f"at none of the rates from {min(rates):g} to {max(rates):g} Mbit/s"
    return f"at {rate:.3g} Mbit/s, between the rates measured on logarithmic scales"


def _table(
    times: Mapping[str, Mapping[float, Time]], ratios: Mapping[str, Mapping[float, float]], target: float
) -> Table:
    shown = Table("Mbit/s", "", "ms per step", f"s to loss {target:g}", f"over {ONE_BIT}'s", "how")
    for rate in times[ONE_BIT]:
        for name, of_rate in times.items():
            time = of_rate[rate]
            numbers = f"{1e3 * time.step_s:.1f}", f"{time.to_loss_s:.2f}", f"{ratios[name][rate]:.2f}"
            how = "measured" if time.measured else "steps x time of a step"
            shown.add_row("no links" if math.isinf(rate) else f"{rate:g}", name, *numbers, how)
        shown.add_section()
    return shown
