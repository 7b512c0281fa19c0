"""Studies of SVRG and Katyusha X: what momentum saves, with which step sizes, up to which batch size rounds are saved,
what workers save."""

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
# Multiples of the step size that the analysis allows, and instances, (N, gap), on which it is tuned over the last ones.
MULTIPLES: Final = (1, 2, 4, 8, 16, 32)
TUNED: Final = (4, 8, 16, 32)
GRID: Final = tuple((N, gap) for N in (256, 1024) for gap in (2e-3, 5e-4, 1.25e-4))
CONVEX: Final = "logistic:samples=1024,dim=40,weight=0.001"  # condition number 251
LENGTHS: Final = {
    "SVRG, geometric": ("svrg",),
    "SVRG, m = 2N, option I": ("svrg", "--epoch-length", "fixed:m=2048"),
    "SVRG, m = 2N, option II": ("svrg", "--epoch-length", "fixed:m=2048,option=II"),
    "X^s, geometric": ("katyusha_x",),
}
SAMPLE_S: Final = 6e-3  # emulated seconds of a sample's gradient
SAMPLINGS: Final = ("stratified", "iid")


def reference(
    folder: Path, variant: str, b: int, gap: float, epochs: int, seed: int, *more: str, samples: int = SAMPLES
) -> Run:
    """A run on an instance of shift and invert, on one rank: convergence does not depend on their number."""
    program, *chosen = VARIANTS[variant]
    problem = f"pca:samples={samples},dim=40,gap={gap:g}"
    flags = (*chosen, "--problem", problem, "--batch-size", str(b), "--seed", str(seed), *more)
    name = "-".join([variant, str(samples), str(b), f"{gap:g}", str(seed), *more]).replace("--", "") + ".h5"
    passes = 1 + 2 * b * -(-samples // b) / samples
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


def scan(
    folder: Path, samples: int, gap: float, multiples: Sequence[int], instances: int
) -> dict[tuple[str, int], list[Run]]:
    """(variant, multiple of the step size of the analysis) -> runs of `svrg` and `s` with b = sqrt(N).

    SVRG needs the more epochs the smaller gap and step size are: on the reference instance about 0.46 / gap with the
    step size of the analysis.
    """
    b, runs = round(samples**0.5), dict[tuple[str, int], list[Run]]()
    for seed in range(instances):
        short = reference(folder, "svrg", b, gap, 1, seed, samples=samples)
        allowed = json.loads(short.attrs["constants"])["step_size"]
        for variant in ("svrg", "s"):
            for multiple in multiples:
                epochs = enough(variant, max(80, round(0.7 * (SAMPLES / samples) ** 0.5 / (gap * multiple))))
                flags = "--step-size", f"{multiple * allowed:.6g}"
                run = reference(folder, variant, b, gap, epochs, seed, *flags, samples=samples)
                runs.setdefault((variant, multiple), []).append(run)
    return runs


def step_sizes(folder: Path, instances: int = 5, multiples: Sequence[int] = MULTIPLES) -> dict[tuple[str, int], float]:
    """(variant, multiple of the step size of the analysis) -> median passes to 1e-8 of the first suboptimality, on the
    reference instance, condition number about 482, b = 32. Draws `step-sizes`."""
    runs = scan(folder, SAMPLES, GAP, multiples, instances)
    results = {key: median(repeated) for key, repeated in runs.items()}
    draw("step-sizes", [run for repeated in runs.values() for run in repeated], folder / "step-sizes.png")
    shown = Table("multiple", "SVRG", "X^s", title=f"passes to 1e-8, medians of {instances} instances")
    for multiple in multiples:
        shown.add_row(str(multiple), *(f"{results[variant, multiple]:.0f}" for variant in ("svrg", "s")))
    Console().print(shown)
    return results


def tuned(
    folder: Path,
    instances: int = 3,
    grid: Sequence[tuple[int, float]] = GRID,
    multiples: Sequence[int] = TUNED,
) -> dict[tuple[int, float], dict[str, tuple[float, int]]]:
    """(N, gap) -> for `svrg` and `s` the least median passes to 1e-8 of the first suboptimality over the multiples of
    the step size of the analysis, and the multiple that has them; b = sqrt(N)."""
    results = {}
    shown = Table("N", "kappa", "SVRG", "X^s", "ratio", title=f"passes to 1e-8, tuned; medians of {instances}")
    for samples, gap in grid:
        runs = scan(folder, samples, gap, multiples, instances)
        row = {variant: min((median(runs[variant, c]), c) for c in multiples) for variant in ("svrg", "s")}
        results[samples, gap] = row
        kappa = json.loads(runs["s", multiples[0]][0].attrs["constants"])["L"] / gap
        cells = (f"{row[variant][0]:.0f} (x{row[variant][1]})" for variant in ("svrg", "s"))
        shown.add_row(str(samples), f"{kappa:.0f}", *cells, f"{row['svrg'][0] / row['s'][0]:.2f}")
    Console().print(shown)
    return results


def epoch_lengths(folder: Path, instances: int = 5) -> dict[str, float]:
    """Program and epoch length -> median passes to 1e-8 of the first suboptimality on convex logistic regression,
    condition number 251, b = 1, each with its own default step size."""
    results = {}
    for name, (program, *chosen) in LENGTHS.items():
        runs = []
        for seed in range(instances):
            out = folder / ("-".join([program, *chosen, str(seed)]).replace("--", "").replace(":", "-") + ".h5")
            flags = ["--problem", CONVEX, "--batch-size", "1", "--seed", str(seed), "--epochs", "200"]
            runs.append(trace(out, program, 1, *chosen, *flags, "--evaluations", "100"))
        results[name] = median(runs)
    shown = Table("epochs", "passes to 1e-8", title=f"medians of {instances} instances, kappa = 251")
    for name, passes in results.items():
        shown.add_row(name, f"{passes:.0f}")
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
