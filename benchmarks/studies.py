"""Studies: the launches, the table and the figures behind a claim about several programs, by one command each.

    python -m outpace.benchmarks.studies unequal-data    D^2 and D-PSGD where workers hold different labels
    python -m outpace.benchmarks.studies busiest-rank    rates and traffic against the number of workers
    python -m outpace.benchmarks.studies slow-worker     the pace of the others beside a slow worker
    python -m outpace.benchmarks.studies signum          Signum beside Adam, both tuned over a grid
    python -m outpace.benchmarks.studies vote-errors     how often a majority is wrong, against workers and noise
    python -m outpace.benchmarks.studies flippers        majority vote against workers that negate their signs
    python -m outpace.benchmarks.studies batch-sizes     SVRG and Katyusha X: passes and rounds against the batch size
    python -m outpace.benchmarks.studies condition       the same two against the condition number
    python -m outpace.benchmarks.studies step-sizes      the same two against the step size
    python -m outpace.benchmarks.studies tuned           the same two with tuned step sizes, over N and condition number
    python -m outpace.benchmarks.studies epoch-lengths   SVRG with epochs of random and of fixed length
    python -m outpace.benchmarks.studies workers         Katyusha X: time per pass against the number of workers

A trace that is there already is not made again, so a study that was cut short goes on.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from outpace.benchmarks import kept, variance_reduction
from outpace.benchmarks.kept import draw
from outpace.benchmarks.reading import Run
from outpace.comm import sign
from outpace.comm.spec import UserError

RUNS: Final = Path("results/runs")
SERVED: Final = ("a_psgd", "eamsgd")  # programs with a server beside the workers


def trace(out: Path, program: str, workers: int, *flags: str) -> Run:
    """The run that leaves `out`, on as many ranks as its workers and servers need."""
    return kept.trace(out, program, workers + (program in SERVED), *flags)


EXCLUSIVE: Final = {5: "labels:classes=2", 10: "labels:classes=1"}  # no label on two workers
STABLE_RING: Final = {5: "ring", 10: "ring:lazy=1"}
HIDDEN: Final = {"softmax": 0, "MLP": 64}


def unequal_data(
    folder: Path, seeds: int = 5, epochs: float = 40, workers: Sequence[int] = (5, 10), models: Sequence[str] = ()
) -> dict[tuple[str, int, str, str], float]:
    """(model, workers, split, program) -> median over seeds of the final loss over AllReduce-SGD's, paired by seed.

    Digits on a ring, exclusive labels against shuffled; step size 0.2, batch 16. Draws `splits` for each model.
    """
    ratios = {}
    for model in models or HIDDEN:
        runs: dict[tuple[int, str, str], list[Run]] = {}
        for n in workers:
            for split in ("iid", EXCLUSIVE[n]):
                for seed in range(seeds):
                    for program in ("allreduce_sgd", "d_psgd", "d2"):
                        flags = ["--problem", f"digits:hidden={HIDDEN[model]}", "--split", split, "--seed", str(seed)]
                        flags += ["--epochs", f"{epochs:g}", "--dtype", "float64", "--step-size", "0.2"]
                        if program != "allreduce_sgd":
                            flags += ["--topology", STABLE_RING[n]]
                        name = f"{model}-{n}-{split.partition(':')[0]}-{program}-{seed}.h5"
                        runs.setdefault((n, split, program), []).append(trace(folder / name, program, n, *flags))
        for (n, split, program), repeated in runs.items():
            base = runs[n, split, "allreduce_sgd"]
            paired = [run.final_loss() / other.final_loss() for run, other in zip(repeated, base, strict=True)]
            ratios[model, n, split, program] = float(np.median(paired))
        draw("splits", [run for repeated in runs.values() for run in repeated], folder / f"splits-{model}.png")
    shown = Table(
        "model", "workers", "split", "program", "final loss / AllReduce-SGD's", title=f"{seeds} seeds, medians"
    )
    for (model, n, split, program), ratio in ratios.items():
        shown.add_row(model, str(n), split, program, f"{ratio:.3f}")
    Console().print(shown)
    return ratios


DIMS: Final = {"100 KB": 25_000, "4 MB": 1_000_000, "40 MB": 10_000_000}  # of float32
COMPUTE_TIME_S: Final = {"100 KB": 0.02, "4 MB": 0.05, "40 MB": 0.5}
PROGRAMS: Final = ("allreduce_sgd", "a_psgd", "d_psgd", "ad_psgd", "d2", "eamsgd")


def busiest_rank(
    folder: Path, seconds: float = 6, workers: Sequence[int] = (2, 4, 8), sizes: Sequence[str] = tuple(DIMS)
) -> dict[tuple[str, str, int], float]:
    """(size, program, workers) -> models that the busiest rank sends, or receives if that is more, per gradient of
    each worker. Draws `steps-rate` for each size.

    Compute time is slept, so that the workers may share cores; their transfers share them as well, which limits the
    rates of the largest models, not the traffic.
    """
    models = {}
    for size in sizes:
        runs = []
        for program in PROGRAMS:
            for n in workers:
                flags = ["--problem", f"quadratic:dim={DIMS[size]}", "--compute-time", f"{COMPUTE_TIME_S[size]:g}"]
                flags += ["--time-budget", f"{seconds:g}", "--evaluations", "1", "--dtype", "float32"]
                flags += ["--period", "1"] if program == "eamsgd" else []
                run = trace(folder / f"{size.replace(' ', '')}-{program}-{n}.h5", program, n, *flags)
                models[size, program, n] = run.busiest_nbytes() / (4 * DIMS[size])
                runs.append(run)
        draw("steps-rate", runs, folder / f"steps-rate-{size.replace(' ', '')}.png")
    shown = Table("size", "program", *(f"n = {n}" for n in workers), title="models through the busiest rank")
    for size in sizes:
        for program in PROGRAMS:
            shown.add_row(size, program, *(f"{models[size, program, n]:.2f}" for n in workers))
    Console().print(shown)
    return models


def slow_worker(folder: Path, repetitions: int = 5, seconds: float = 8, program: str = "a_psgd") -> dict[int, float]:
    """worker -> its gradients per second beside a worker 0 slowed 10x, over those without, medians of launches.

    8 workers and a server, 10 ms of compute slept; the launches of both levels are interleaved.
    """
    rates: dict[str, list[np.ndarray]] = {"none": [], "fixed:rank=0,factor=10": []}
    runs = []
    for seed in range(repetitions):
        for stragglers, measured in rates.items():
            flags = ["--compute-time", "0.01", "--time-budget", f"{seconds:g}", "--stragglers", stragglers]
            name = f"{program}-{stragglers.partition(':')[0]}-{seed}.h5"
            run = trace(folder / name, program, 8, *flags, "--seed", str(seed))
            runs.append(run)
            rank, t_s = run.column("steps", "rank"), run.column("steps", "t_s")
            # up to the worker's own last gradient: the slow one's comes after the others have ended
            measured.append(np.array([(rank == worker).sum() / t_s[rank == worker].max() for worker in range(8)]))
    equal, slowed = (np.median(measured, axis=0) for measured in rates.values())
    shown = Table("worker", "alone, 1/s", "beside a slow one, 1/s", "ratio", title=f"{program}, worker 0 slowed 10x")
    for worker in range(8):
        ratio = slowed[worker] / equal[worker]
        shown.add_row(str(worker), f"{equal[worker]:.1f}", f"{slowed[worker]:.1f}", f"{ratio:.3f}")
    Console().print(shown)
    draw("shares", runs, folder / f"shares-{program}.png")
    return {worker: float(slowed[worker] / equal[worker]) for worker in range(8)}


TUNING_SEED: Final = 100  # the grid is searched with this one, and what it says holds for the others
# Step sizes and momenta as in the experiments of the ICML paper, where they are decades and 0.5 or 0.9 as well.
STEP_SIZES: Final = ("0.001", "0.01", "0.1")
MOMENTA: Final = ("0.5", "0.9")
TUNED: Final[
    dict[str, tuple[str, str, list[tuple[str, ...]]]]
] = {  # the flags of a program but for its step size and momentum, and how the latter is called
    "Adam": ("allreduce_sgd", "--beta1", [("--rule", "adam")]),
    "Signum": (
        "sign_sgd",
        "--momentum",
        [("--variant", "signum", "--vote", "none", "--schedule", each) for each in ("constant", "inverse-sqrt")],
    ),
    "Signum, majority": (
        "sign_sgd",
        "--momentum",
        [("--variant", "signum", "--schedule", each) for each in ("constant", "inverse-sqrt")],
    ),
}


def signum(folder: Path, seeds: int = 5, epochs: float = 20, workers: int = 5) -> dict[str, list[float]]:
    """The final loss over Adam's, for each seed, of Signum without and with a vote; digits MLP, batch 16.

    Everyone has the best flags of the grid. Without a vote Signum takes the sign of a momentum of the mean gradient,
    which is Adam's own; with one it has n signs of momenta. Draws `loss-epochs` for each of the two.
    """

    def run(program: str, flags: tuple[str, ...], seed: int) -> Run:
        out = folder / f"{program}{''.join(flags)}-{seed}.h5".replace("--", "-")
        return trace(out, program, workers, *flags, "--epochs", f"{epochs:g}", "--seed", str(seed))

    runs = {}
    shown = Table("", "flags", "final loss", title=f"the grid, seed {TUNING_SEED}, {workers} workers")
    for name, (program, momentum, variants) in TUNED.items():
        pairs = itertools.product(variants, STEP_SIZES, MOMENTA)
        grid = [(*variant, "--step-size", step, momentum, decay) for variant, step, decay in pairs]
        losses = {flags: run(program, flags, TUNING_SEED).final_loss() for flags in grid}
        for flags, loss in losses.items():
            shown.add_row(name, " ".join(flags), f"{loss:.4g}")
        best = min(losses, key=losses.__getitem__)
        runs[name] = [run(program, best, seed) for seed in range(seeds)]
    ratios = {
        name: [one.final_loss() / adam.final_loss() for one, adam in zip(repeated, runs["Adam"], strict=True)]
        for name, repeated in runs.items()
    }
    console = Console(width=120)
    console.print(shown)
    for name, repeated in runs.items():
        finals, over = (
            ", ".join(f"{value:.4g}" for value in values)
            for values in ([one.final_loss() for one in repeated], ratios[name])
        )
        console.print(f"{name}: {finals}; over Adam's {over}; median {np.median(ratios[name]):.3f}")
    draw("loss-epochs", [*runs["Adam"], *runs["Signum"]], folder / "signum.png")
    draw("loss-epochs", [*runs["Adam"], *runs["Signum, majority"]], folder / "signum-majority.png")
    return ratios


VOTERS: Final = (1, 3, 7, 15, 27, 51)
SNR: Final = 0.3  # a gradient of this size, in noise of standard deviation 1
NOISES: Final[dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]]] = {
    "Gaussian": lambda rng, shape: SNR + rng.standard_normal(shape),
    "Laplace": lambda rng, shape: SNR + rng.laplace(scale=np.sqrt(0.5), size=shape),
    "uniform": lambda rng, shape: SNR + rng.uniform(-np.sqrt(3), np.sqrt(3), shape),
    "skewed": lambda rng, shape: np.where(rng.random(shape) < 0.1, 50.0, -1.0),  # +4.1 in the mean
}


def vote_error(gradients: np.ndarray) -> float:
    """Share of the coordinates, whose true gradients are positive, with a negative vote; gradients (n, dim)."""
    n, dim = gradients.shape
    words, coins = np.zeros((n, sign.words(dim)), np.uint32), np.zeros(sign.words(dim), np.uint32)
    for gradient, ballot in zip(gradients, words, strict=True):
        sign.ballot(gradient, coins, 0, ballot)
    outcome = np.zeros((1, sign.words(dim)), np.uint32)
    sign.tally(words, coins, outcome)
    plus = np.unpackbits(outcome.view(np.uint8), bitorder="little")[:dim]
    return 1.0 - float(plus.mean())


def vote_errors(folder: Path, coordinates: int = 200_000) -> dict[tuple[str, int], float]:
    """(noise, voters) -> the error of a majority vote, measured with the kernels of the vote itself; no launch."""
    draws = {noise: [np.random.default_rng([17, n]) for n in VOTERS] for noise in NOISES}
    errors = {
        (noise, n): vote_error(NOISES[noise](rng, (n, coordinates)))
        for noise, rngs in draws.items()
        for n, rng in zip(VOTERS, rngs, strict=True)
    }
    shown = Table("noise", *(f"n = {n}" for n in VOTERS), title=f"share of wrong votes, {coordinates} coordinates")
    for noise in NOISES:
        shown.add_row(noise, *(f"{errors[noise, n]:.3f}" for n in VOTERS))
    Console().print(shown)
    return errors


FLIPPERS: Final = (0, 4, 8, 10, 12, 13, 14)


def flippers(folder: Path, workers: int = 27, liars: Sequence[int] = FLIPPERS, steps: int = 400) -> dict[int, float]:
    """Workers that negate their signs -> the final loss of signSGD, with a start of 500 or so.

    f = |x - c|^2 / 2 in 1,000 dimensions, noise N(0, 1) in every coordinate, steps of 0.01.
    """
    problem, samples = "quadratic:dim=1000,condition=1,sigma=1,samples=1000000", 1_000_000
    losses = {}
    for count in liars:
        flags = ["--problem", problem, "--batch-size", "1", "--step-size", "0.01", "--schedule", "constant"]
        flags += ["--epochs", repr(steps * workers / samples), "--evaluations", "10"]
        if count:
            flags += ["--adversaries", f"flip:rank={'+'.join(map(str, range(count)))}"]
        losses[count] = trace(folder / f"{workers}-{count}.h5", "sign_sgd", workers, *flags).final_loss()
    shown = Table("flippers", "final loss", title=f"{workers} workers, {steps} steps")
    for count, loss in losses.items():
        shown.add_row(str(count), f"{loss:.3g}")
    Console().print(shown)
    return losses


STUDIES: Final[dict[str, Callable[[Path], object]]] = {
    "unequal-data": unequal_data,
    "busiest-rank": busiest_rank,
    "slow-worker": slow_worker,
    "signum": signum,
    "vote-errors": vote_errors,
    "flippers": flippers,
    "batch-sizes": variance_reduction.batch_sizes,
    "condition": variance_reduction.condition,
    "step-sizes": variance_reduction.step_sizes,
    "tuned": variance_reduction.tuned,
    "epoch-lengths": variance_reduction.epoch_lengths,
    "workers": variance_reduction.workers,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="outpace.benchmarks.studies"
    )
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("-o", "--out", type=Path, help=f"folder for traces and figures; default {RUNS}/STUDY")
    options = parser.parse_args()
    try:
        STUDIES[options.study](options.out or RUNS / options.study)
    except UserError as error:
        print(f"{options.study}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
