"""Signum beside Adam, both tuned over a grid."""

import itertools
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from outpace.benchmarks.studies.launches import draw, trace
from outpace.benchmarks.trace.run import Run

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
        [("--variant", "signum", "--vote", "none", "--schedule", each) for each in ("constant", "sqrt")],
    ),
    "Signum, majority": (
        "sign_sgd",
        "--momentum",
        [("--variant", "signum", "--schedule", each) for each in ("constant", "sqrt")],
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
