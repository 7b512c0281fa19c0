"""Majority vote against workers that negate their signs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from outpace.benchmarks.studies.launches import trace

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
