"""All programs beside one another: what each waits for, how fast it then is, and when it has learnt the same."""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from outpace.benchmarks import figures
from outpace.benchmarks.studies import tuning
from outpace.benchmarks.studies.first_of_n import busy_s, never_waiting, rounds_of_m
from outpace.benchmarks.studies.launches import trace
from outpace.benchmarks.trace.common_loss import common_loss
from outpace.benchmarks.trace.run import Run
from outpace.comm import topology

COMPUTE_S: Final = 0.01  # slept
COMMON: Final = ("--batch-size", "16", "--schedule", "constant")
PROBLEM: Final = ("--problem", "digits:hidden=64", "--compute-time", str(COMPUTE_S), *COMMON)
LARGE: Final = ("--problem", "digits:hidden=13400", "--compute-time", "0.05", *COMMON)
SIDE: Final = 3  # step sizes tried on each side of the first one, half a decade apart
TRIED_ON: Final = ("--simulate", "10gbit")  # which asks for no idle machine and repeats itself
PERIOD: Final = 8  # local steps of a round
LEVELS: Final = ("none", "fixed:rank=0,factor=10", "lognormal:sigma=1", "pareto:alpha=1.5")


class Entrant(NamedTuple):
    program: str
    first: int  # rung of the first step size that is tried
    waits: str = ""  # for "all", "neighbours", "rounds" of local steps, the "first" m, "nobody", ...; for the law alone
    flags: tuple[str, ...] = ()


LOCAL: Final = ("--period", str(PERIOD))
ENTRANTS: Final[dict[str, Entrant]] = {
    "AllReduce-SGD": Entrant("allreduce_sgd", -1, "all"),
    "D-PSGD": Entrant("d_psgd", -1, "neighbours"),
    "D^2": Entrant("d2", -1, "neighbours"),
    "AD-PSGD": Entrant("ad_psgd", -1, "nobody"),
    "A-PSGD": Entrant("a_psgd", -1, "nobody"),
    "EAMSGD": Entrant("eamsgd", -2, "nobody"),
    "Signum": Entrant("sign_sgd", -5, "all", ("--variant", "signum")),
    "QSGD": Entrant("quantized_sgd", -1, "all"),
    "Local SGD": Entrant("local_sgd", -1, "rounds", LOCAL),
    "DiLoCo": Entrant("local_sgd", -2, "rounds", (*LOCAL, "--outer", "nesterov")),
    "Gossip local SGD": Entrant("gossip_local_sgd", -1, "pairs", LOCAL),
    "m-sync SGD": Entrant("m_sync_sgd", -1, "first"),
    "Ringmaster ASGD": Entrant("ringmaster_asgd", -1, "nobody"),
    "Ringleader ASGD": Entrant("ringmaster_asgd", -1, "nobody", ("--variant", "ringleader")),
    "SGP": Entrant("sgp", -1, "one-peer"),
    "CHOCO-SGD": Entrant("choco_sgd", -1, "neighbours"),
    "Gradient tracking": Entrant("gradient_tracking", -2, "neighbours"),
    "D-Lion": Entrant("sign_sgd", -5, "all", ("--variant", "lion")),
    "PowerSGD": Entrant("powersgd", -1, "all"),
}

LINKED: Final[dict[str, Entrant]] = {
    "AllReduce-SGD": Entrant("allreduce_sgd", 0),
    "Local SGD, H = 1": Entrant("local_sgd", 0, flags=("--period", "1")),
    "Local SGD, H = 8": Entrant("local_sgd", 0, flags=LOCAL),
    "Local SGD, H = 64": Entrant("local_sgd", 0, flags=("--period", "64")),
    "Gossip local SGD, H = 8": Entrant("gossip_local_sgd", 0, flags=LOCAL),
    "CHOCO-SGD": Entrant("choco_sgd", 0, flags=("--dtype", "float32")),
    "PowerSGD": Entrant("powersgd", 0),
    "Signum": Entrant("sign_sgd", -7, flags=("--variant", "signum")),
}


def opponents(
    folder: Path, launches: int = 3, workers: int = 8, epochs: float = 10, seconds: float = 8
) -> dict[tuple[str, str], tuple[float, float]]:
    """(program, stragglers) -> gradients/s and seconds to a common loss, medians of launches; infinite where the median
    does not reach it within so many epochs and seconds.

    Digits by a perceptron of 64 hidden units, 10 ms of slept compute. Every program has seven step sizes tried, half a
    decade apart around a first one, in simulated runs without stragglers: the one with the least loss after so many
    epochs is taken. The common loss is that of the runs without stragglers. Half an hour with 3 launches. Draws
    `loss-facets`.
    """
    shown = Table("", "loss by step size", title=f"the grid: seed {tuning.SEED}, {epochs:g} epochs")
    found: dict[tuple[str, str], list[Run]] = {}
    limits = ["--epochs", f"{epochs:g}", "--time-budget", f"{seconds:g}"]
    for name, entrant in ENTRANTS.items():
        run = functools.partial(_run, folder, name, entrant, workers, [*PROBLEM, *limits])
        best, losses = _best(run, entrant.first)
        shown.add_row(name, losses)
        for level in LEVELS:
            found[name, level] = [run(best, seed, "--stragglers", level) for seed in range(launches)]
    console = Console(width=150)
    console.print(shown)
    target = common_loss([run for (_, level), runs in found.items() if level == LEVELS[0] for run in runs])
    medians = {}
    for level in LEVELS:
        table = Table("program", "waits for", "gradients/s", "law", f"s to loss {target:g}", "accuracy", title=level)
        for name, entrant in ENTRANTS.items():
            runs = found[name, level]
            rate = float(np.median([each.steps_per_s() for each in runs]))
            times = [math.inf if (s := each.time_to_loss(target)) is None else s for each in runs]
            medians[name, level] = rate, float(np.median(times))
            accuracy = np.median([each.column("evaluations", "accuracy")[-1] for each in runs])
            expected = np.median([_law_of(each, entrant.waits) for each in runs])
            to_loss = f"{np.median(times):.2f}" if math.isfinite(np.median(times)) else "not reached"
            table.add_row(name, entrant.waits, f"{rate:.0f}", f"{expected:.0f}", to_loss, f"{accuracy:.3f}")
        console.print(table)
    paths = [run.path for runs in found.values() for run in runs]
    figures.draw("loss-facets", paths, folder / "loss-facets.png")
    print(f"wrote {folder / 'loss-facets.png'}")
    return medians


def opponents_linked(folder: Path, workers: int = 4, epochs: float = 6, rate: float = 100) -> dict[str, float]:
    """program -> seconds to a common loss behind links of `rate` Mbit/s, over AllReduce-SGD's; infinite where it is not
    reached.

    Digits by a perceptron of 1,005,000 parameters, 50 ms of slept compute, float32. Step sizes as for `opponents`,
    tuned in simulated runs without links. Ten minutes. Draws `loss-time`.
    """
    title = f"behind links of {rate:g} Mbit/s, {workers} workers"
    shown = Table("program", "loss by step size", "MB per step", "ms per step", "s to loss", "over", title=title)
    grids: dict[str, str] = {}
    found: dict[str, Run] = {}
    for name, entrant in LINKED.items():
        run = functools.partial(_run, folder, name, entrant, workers, [*LARGE, "--epochs", f"{epochs:g}"])
        best, grids[name] = _best(run, entrant.first)
        found[name] = run(best, 0, "--links", f"all:rate={rate:g}mbit")
    target = common_loss(list(found.values()))
    times = {name: math.inf if (s := each.time_to_loss(target)) is None else s for name, each in found.items()}
    over = {name: seconds / times["AllReduce-SGD"] for name, seconds in times.items()}
    for name, each in found.items():
        step_s = float(each.column("steps", "t_s").max()) / (1 + int(each.column("steps", "step").max()))
        numbers = each.busiest_nbytes() / 1e6, 1e3 * step_s, times[name], over[name]
        shown.add_row(name, grids[name], *(f"{number:.3g}" for number in numbers))
    console = Console(width=150)
    console.print(shown, f"the loss is {target:g}")
    figures.draw("loss-time", [each.path for each in found.values()], folder / "loss-time.png", by="period")
    print(f"wrote {folder / 'loss-time.png'}")
    return over


def _best(run: Callable[..., Run], first: int) -> tuple[float, str]:
    """The best step size of the grid around the first rung, and the losses of all in words; by `run(gamma, seed)`."""
    best, losses = tuning.grid(lambda gamma: run(gamma, tuning.SEED, *TRIED_ON).final_loss(), first, SIDE)
    return best, ", ".join(f"{gamma:g}: {loss:.3g}" for gamma, loss in losses.items())


def _run(
    folder: Path,
    name: str,
    entrant: Entrant,
    workers: int,
    flags: Sequence[str],
    step_size: float,
    seed: int,
    *surroundings: str,
) -> Run:
    words = surroundings[-1].partition(":")[0] if surroundings else "none"
    out = folder / f"{name.replace(' ', '-')}-{step_size:g}-{words}-{seed}.h5"
    given = [*entrant.flags, *flags, "--step-size", f"{step_size:g}", *surroundings, "--seed", str(seed)]
    return trace(out, entrant.program, workers, *given, "--evaluations", "100")


def _law_of(run: Run, waits: str) -> float:
    """By the run's own delays, over as many gradients of a worker: the mean of a heavy tail grows with their number."""
    n = int(run.attrs["n_workers"])
    rounds = PERIOD * max(1, round(len(run.column("steps", "t_s")) / (PERIOD * n)))
    return law(waits, run.attrs["stragglers"], n, COMPUTE_S, rounds, run.attrs["seed"])


def law(waits: str, level: str, n: int, compute_s: float, rounds: int, seed: int = 0) -> float:
    """Gradients per second of n workers where messages and arithmetic take no time; dropped ones do not count."""
    if waits == "nobody":
        return never_waiting(level, n, compute_s, rounds, seed)
    if waits == "first":
        return (n - 1) / rounds_of_m(level, n, n - 1, compute_s, rounds, seed=seed).round_s
    steps = PERIOD if waits in ("rounds", "pairs") else 1
    busy = busy_s(level, n, compute_s, rounds, seed).reshape(n, rounds // steps, steps).sum(axis=2)
    heard = _heard(waits, n, busy.shape[1])
    done = np.zeros(n)
    for k, begun in enumerate(busy.T):
        ready = done + begun
        done = np.array([ready[row].max() for row in heard[k % len(heard)]])
    return n * rounds / float(done.mean())


def _heard(waits: str, n: int, rounds: int) -> Sequence[NDArray[np.bool_]]:
    """Whom each worker waits for in each round of a period, itself among them, shape (n, n)."""
    if waits in ("all", "rounds"):
        return [np.ones((n, n), dtype=bool)]
    if waits == "pairs":
        rng = np.random.default_rng(0)
        matched = []
        for _ in range(rounds):
            heard, order = np.eye(n, dtype=bool), rng.permutation(n)
            heard[order[0::2], order[1::2]] = heard[order[1::2], order[0::2]] = True
            matched.append(heard)
        return matched
    return [W != 0 for W in topology.mixing_matrices("one-peer" if waits == "one-peer" else "ring", n)]
