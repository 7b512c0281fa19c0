"""Networks on real images: accuracies side by side after the same epochs, and where the time of a step goes."""

from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from outpace.benchmarks.studies.launches import draw, trace
from outpace.benchmarks.trace.run import Run, exchanges_per_gradient

PROGRAMS: Final = ("allreduce_sgd", "d_psgd", "ad_psgd")


def fashion(folder: Path, seeds: int = 3, epochs: float = 5, workers: int = 8) -> dict[str, float]:
    """program -> its accuracy on the 10,000 held-out images after the same epochs, the median over seeds.

    LeNet-5 on Fashion-MNIST, a ring, shuffled passes, batch 16, step size 0.2, which falls to 0 along a cosine, for
    all. Draws `accuracy-epochs`.
    """
    flags = ["--problem", "torch:model=lenet5,data=fashion-mnist", "--dtype", "float32", "--sampling", "shuffle"]
    flags += ["--step-size", "0.2", "--schedule", "cosine", "--epochs", f"{epochs:g}", "--evaluations", f"{epochs:g}"]
    found: dict[str, list[Run]] = {program: [] for program in PROGRAMS}
    for seed in range(seeds):
        for program in PROGRAMS:
            graph = [] if program == "allreduce_sgd" else ["--topology", "ring"]
            out = folder / f"{program}-{workers}-{seed}.h5"
            found[program].append(trace(out, program, workers, *flags, *graph, "--seed", str(seed)))
    shown = Table("program", "accuracy by seed", "median", "held-out loss", "loss", "exchanges per gradient")
    shown.title = f"LeNet-5, Fashion-MNIST, {workers} workers, {epochs:g} epochs"
    medians = {}
    for program, runs in found.items():
        accuracies = [float(run.column("evaluations", "accuracy")[-1]) for run in runs]
        medians[program] = float(np.median(accuracies))
        held_out = np.median([run.column("evaluations", "held_out_loss")[-1] for run in runs])
        each = [exchanges_per_gradient(run) for run in runs]
        shown.add_row(
            runs[0].title,
            ", ".join(f"{accuracy:.4f}" for accuracy in accuracies),
            f"{medians[program]:.4f}",
            f"{held_out:.4f}",
            f"{np.median([run.final_loss() for run in runs]):.4f}",
            ", ".join("-" if one is None else f"{one:.2f}" for one in each),
        )
    Console(width=120).print(shown)
    draw("accuracy-epochs", [run for runs in found.values() for run in runs], folder / "accuracy-epochs.png")
    return medians
