"""Studies of SVRG and Katyusha X: what momentum saves, up to which batch size rounds are saved, what workers save."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from outpace.benchmarks.studies.launches import draw, trace
from outpace.benchmarks.trace.run import Run

SAMPLES: Final = 1024
BATCHES: Final = (1, 8, 32, 128)  # sqrt(1024) is 32
# Gaps of the reference instance and epochs that are enough for a suboptimality of 1e-8 of the first, by variant.
GAP: Final = 2e-3  # condition number about 482
GAPS: Final = {0.12: 60, 2e-2: 150, GAP: 330, 1e-3: 650}
EPOCHS: Final = {1: 330, 8: 330, 32: 330, 128: 1200}
VARIANTS: Final = {"svrg": ("svrg",), "s": ("katyusha_x", "--variant", "s"), "w": ("katyusha_x", "--variant", "w")}
TARGET: Final = 1e-8
SAMPLE_S: Final = 6e-3  # emulated seconds of a sample's gradient
SAMPLINGS: Final = ("stratified", "iid")


def reference(folder: Path, variant: str, b: int, gap: float, epochs: int, seed: int, *more: str) -> Run:
    """A run on an instance of shift and invert, on one rank: convergence does not depend on their number."""
    program, *chosen = VARIANTS[variant]
    problem = f"pca:samples={SAMPLES},dim=40,gap={gap:g}"
    flags = (*chosen, "--problem", problem, "--batch-size", str(b), "--seed", str(seed), *more)
    name = "-".join([variant, str(b), f"{gap:g}", str(seed), *more]).replace("--", "") + ".h5"
    passes = 1 + 2 * b * -(-SAMPLES // b) / SAMPLES
    return trace(folder / name, program, 1, *flags, "--epochs", f"{passes * epochs:.6g}", "--evaluations", str(epochs))


def enough(variant: str, epochs: int) -> int:
    """Epochs for a variant where SVRG needs so many."""
    return {"svrg": epochs, "s": max(40, epochs // 2), "w": epochs}[variant]


def median(runs: Sequence[Run], column: str = "gradients") -> float:
    return float(np.median([run.effort_to(TARGET, column) for run in runs]))


def batch_sizes(
    folder: Path, instances: int = 5, sizes: Sequence[int] = BATCHES
) -> dict[tuple[str, int], tuple[float, float]]:
    """(variant, b) -> median passes and rounds to 1e-8 of the first suboptimality, at condition number about 482.

    Draws `batches` over all of them and the two of suboptimality at b = 32.
    """
    results, runs = {}, list[Run]()
    for b in sizes:
        for variant in ("svrg", "s"):
            repeated = [
                reference(folder, variant, b, GAP, enough(variant, EPOCHS[b]), seed) for seed in range(instances)
            ]
            results[variant, b] = median(repeated), median(repeated, "rounds")
            runs += repeated
    draw("batches", runs, folder / "batches.png")
    at = [run for run in runs if run.config["batch_size"] == 32]
    weak = [reference(folder, "w", 32, GAP, EPOCHS[32], seed) for seed in range(instances)]
    results["w", 32] = median(weak), median(weak, "rounds")
    for figure in ("suboptimality-gradients", "suboptimality-rounds"):
        draw(figure, at + weak, folder / f"{figure}.png")
    flags = "--smoothness", "mean-square"
    squares = [reference(folder, "s", 32, GAP, EPOCHS[32] // 2, seed, *flags) for seed in range(instances)]
    results["s, mean-square L", 32] = median(squares), median(squares, "rounds")
    shown = Table("variant", "b", "passes to 1e-8", "rounds to 1e-8", title=f"medians of {instances} instances")
    for (variant, b), (passes, rounds) in results.items():
        shown.add_row(variant, str(b), f"{passes:.0f}", f"{rounds:.0f}")
    Console().print(shown)
    return results


def condition(folder: Path, instances: int = 5, gaps: Sequence[float] = tuple(GAPS)) -> dict[float, dict[str, float]]:
    """gap -> condition number L/sigma, tau, and median passes of `svrg` and `s` to 1e-8 of the first suboptimality;
    b = 32."""
    results = {}
    for gap in gaps:
        row: dict[str, float] = {}
        for variant in ("svrg", "s"):
            repeated = [
                reference(folder, variant, 32, gap, enough(variant, GAPS[gap]), seed) for seed in range(instances)
            ]
            row[variant] = median(repeated)
        constants = json.loads(repeated[0].attrs["constants"])
        results[gap] = {"kappa": constants["L"] / gap, "tau": constants["tau"], **row}
    shown = Table("kappa", "tau", "SVRG", "X^s", "ratio", title=f"passes to 1e-8, medians of {instances} instances")
    for row in results.values():
        ratio = row["svrg"] / row["s"]
        cells = (f"{row['kappa']:.0f}", f"{row['tau']:.3f}", f"{row['svrg']:.0f}", f"{row['s']:.0f}", f"{ratio:.2f}")
        shown.add_row(*cells)
    Console().print(shown)
    return results


def workers(folder: Path, epochs: int = 2, ranks: Sequence[int] = (1, 2, 4, 8)) -> dict[tuple[str, int], float]:
    """(sampling, ranks) -> seconds per pass over the data of Katyusha X^s with b = 32, 6 ms slept per sample. Draws
    `speed-up`."""
    seconds, runs = {}, []
    for sampling in SAMPLINGS:
        for n in ranks:
            flags = ["--problem", f"pca:samples={SAMPLES},dim=40,gap={GAP:g}", "--batch-size", "32"]
            flags += ["--compute-time", f"{32 * SAMPLE_S:g}", "--epochs", str(3 * epochs), "--sampling", sampling]
            run = trace(folder / f"{sampling}-{n}.h5", "katyusha_x", n, *flags)
            seconds[sampling, n] = run.epoch_time()
            runs.append(run)
    draw("speed-up", runs, folder / "speed-up.png")
    shown = Table("sampling", *(f"{n} ranks" for n in ranks), title="seconds per pass, b = 32")
    for sampling in SAMPLINGS:
        shown.add_row(sampling, *(f"{seconds[sampling, n]:.3f}" for n in ranks))
    Console().print(shown)
    return seconds
