"""D^2 and D-PSGD where workers hold different labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from outpace.benchmarks.studies.launches import draw, trace, words
from outpace.benchmarks.studies.networks import FASHION
from outpace.benchmarks.trace.run import Run

PROGRAMS: Final = ("allreduce_sgd", "d_psgd", "d2")


EXCLUSIVE: Final = {5: "labels:classes=2", 10: "labels:classes=1"}  # no label on two workers


STABLE_RING: Final = {5: "ring", 10: "ring:lazy=1"}


HIDDEN: Final = {"softmax": 0, "MLP": 64}


Cases = dict[tuple[int, str, str], list[Run]]  # (workers, split, program) -> its runs, by seed


def unequal_data(
    folder: Path, seeds: int = 5, epochs: float = 40, workers: Sequence[int] = (5, 10), models: Sequence[str] = ()
) -> dict[tuple[str, int, str, str], float]:
    """(model, workers, split, program) -> median over seeds of the final loss over AllReduce-SGD's, paired by seed.

    Digits on a ring, exclusive labels against shuffled; step size 0.2, batch 16. Draws `splits` for each model.
    """
    ratios = {}
    for model in models or HIDDEN:
        flags = ["--problem", f"digits:hidden={HIDDEN[model]}", "--epochs", f"{epochs:g}"]
        flags += ["--dtype", "float64", "--step-size", "0.2"]
        cases = _launched(folder, model, workers, seeds, flags)
        for (n, split, program), runs in cases.items():
            base = cases[n, split, PROGRAMS[0]]
            paired = [run.final_loss() / other.final_loss() for run, other in zip(runs, base, strict=True)]
            ratios[model, n, split, program] = float(np.median(paired))
    shown = Table(
        "model", "workers", "split", "program", "final loss / AllReduce-SGD's", title=f"{seeds} seeds, medians"
    )
    for (model, n, split, program), ratio in ratios.items():
        shown.add_row(model, str(n), split, program, f"{ratio:.3f}")
    Console().print(shown)
    return ratios


def unequal_images(folder: Path, seeds: int = 3, epochs: float = 3) -> dict[tuple[str, str], tuple[float, float]]:
    """(split, program) -> final loss over AllReduce-SGD's and accuracy less its own, medians over seeds, paired.

    LeNet-5 on Fashion-MNIST, 5 workers on a ring, each with two of the ten classes or with some of all; step size 0.1,
    which falls to 0 along a cosine, batch 16. Simulated, which changes what a synchronous program learns by rounding at
    most. Draws `splits`.
    """
    flags = words(FASHION | {"epochs": epochs})
    cases = _launched(folder, "LeNet", [5], seeds, flags)
    shown = Table("split", "program", "loss", "accuracy", "loss / AllReduce-SGD's", "accuracy - AllReduce-SGD's")
    shown.title = f"LeNet-5, Fashion-MNIST, 5 workers, {epochs:g} epochs, {seeds} seeds, medians, simulated"
    found = {}
    for (n, split, program), runs in cases.items():
        loss, accuracy = _ends(runs, "loss"), _ends(runs, "accuracy")
        base = cases[n, split, PROGRAMS[0]]
        ratio, apart = np.median(loss / _ends(base, "loss")), np.median(accuracy - _ends(base, "accuracy"))
        found[split, program] = float(ratio), float(apart)
        medians = np.median(loss), np.median(accuracy), ratio
        shown.add_row(split, runs[0].title, *(f"{value:.4f}" for value in medians), f"{apart:+.4f}")
    Console(width=120).print(shown)
    return found


def _launched(folder: Path, model: str, workers: Sequence[int], seeds: int, flags: Sequence[str]) -> Cases:
    """The runs with these flags by each program, shuffled and with exclusive labels, and their figure."""
    cases: Cases = {}
    for seed in range(seeds):
        for n in workers:
            for split in ("iid", EXCLUSIVE[n]):
                for program in PROGRAMS:
                    graph = [] if program == "allreduce_sgd" else ["--topology", STABLE_RING[n]]
                    name = f"{model}-{n}-{split.partition(':')[0]}-{program}-{seed}.h5"
                    given = [*flags, "--split", split, "--seed", str(seed), *graph]
                    cases.setdefault((n, split, program), []).append(trace(folder / name, program, n, *given))
    draw("splits", [run for runs in cases.values() for run in runs], folder / f"splits-{model}.png")
    return cases


def _ends(runs: Sequence[Run], name: str) -> Any:
    """What the runs' evaluations of this name end with, shape (runs,)."""
    return np.array([run.column("evaluations", name)[-1] for run in runs])
