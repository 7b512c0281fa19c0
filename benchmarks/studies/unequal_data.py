"""D^2 and D-PSGD where workers hold different labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from outpace.benchmarks.studies.launches import draw, trace
from outpace.benchmarks.trace.run import Run

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
