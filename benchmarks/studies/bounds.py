"""What analyses promise, beside what runs do, on problems whose constants are known, with the step sizes of the
analyses.

signSGD, K steps of batches of K samples: Theorems 1 and 2 of Bernstein et al. (ICML 2018, arXiv:1802.04434). D-PSGD: a
bound of ours, whose constants are not the paper's; docs/measured.md has its derivation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from outpace.benchmarks.figures.drawing import log_axis, log_ticks
from outpace.benchmarks.figures.looks import LAW
from outpace.benchmarks.figures.page import HEIGHT, WIDTH, add_legend, house_style
from outpace.benchmarks.studies.launches import trace
from outpace.benchmarks.trace.files import output
from outpace.comm import topology

DIM: Final = 100
CONDITION: Final = 10.0
SIGMA: Final = 1.0  # standard deviation of a sample's gradient, per coordinate
ZETA: Final = 1.0
SAMPLES: Final = 8192  # of each worker
LENGTHS: Final = (16, 64, 256)


@dataclass(frozen=True)
class Row:
    """One run: the mean over its K steps of the gradient's l1 norm at the model, squared, for signSGD; for D-PSGD the
    mean of the squared l2 norm at the mean model."""

    program: str
    workers: int
    steps: int
    step_size: float
    measured: float
    bound: float


def sign_bound(steps: int, workers: int, smoothness: float, sigma: float, gap: float) -> float:
    """Of ((1/K) sum E |g_k|_1)^2, for step size 1/sqrt(smoothness K) and K samples in each of the workers' batches.

    smoothness and sigma are l1 norms, |L|_1 and |sigma|_1; gap is f(x_0) - f*. For a majority the noise must be
    unimodal and symmetric. Theorem 1, and 2 (b) for several workers, with N = K^2.
    """
    return (math.sqrt(smoothness) * (gap + 0.5) + 2 * sigma / math.sqrt(workers)) ** 2 / steps


def gossip_bound(step_size: float, steps: int, n: int, decay: float, L: float, variance: float, gap: float) -> float:
    """Of (1/K) sum E |grad f(mean model)|^2, for step sizes up to (1 - decay) / (2 L), where all workers start alike.

    decay is the largest modulus of W's eigenvalues but the first; `variance` is E |g_i - grad f_i|^2, and for all x
    (1/n) sum |grad f_i - grad f|^2 is at most ZETA^2 DIM. gap is f(x_0) - f*.
    """
    apart = 2 * step_size**2 / (1 - decay) * (variance + 2 * ZETA**2 * DIM / (1 - decay))  # of the models, at most
    return 2 * gap / (step_size * steps) + step_size * L * variance / n + L**2 * apart


def sign_sgd(folder: Path, steps: int, workers: int) -> Row:
    smoothness = float(np.geomspace(1, 1 / CONDITION, DIM).sum())
    step_size = 1 / math.sqrt(smoothness * steps)
    samples = SAMPLES * workers
    problem = f"quadratic:dim={DIM},condition={CONDITION:g},sigma={SIGMA:g},samples={samples}"
    flags = ["--problem", problem, "--batch-size", str(steps), "--step-size", repr(step_size), "--schedule", "constant"]
    flags += ["--epochs", repr(steps * steps * workers / samples), "--evaluations", str(steps), "--dtype", "float64"]
    run = trace(folder / f"sign_sgd-{workers}-{steps}.h5", "sign_sgd", workers, *flags)
    gap = float(run.column("evaluations", "suboptimality")[0])
    measured = float(run.column("evaluations", "gradient_norm_1")[:steps].mean() ** 2)
    return Row(
        "sign_sgd", workers, steps, step_size, measured, sign_bound(steps, workers, smoothness, SIGMA * DIM, gap)
    )


def d_psgd(folder: Path, steps: int, workers: int) -> Row:
    """All curvatures are 1 here, so that the workers' gradients differ by the same vectors everywhere."""
    decay, variance = 1 - topology.spectral_gap(topology.mixing_matrix("ring", workers)), SIGMA**2 * DIM
    # Of the first two terms the least; the gap is about half of DIM, whatever the seed.
    step_size = min((1 - decay) / 2, math.sqrt(2 * 0.5 * DIM * workers / (steps * variance)))
    samples = SAMPLES * workers
    problem = f"quadratic:dim={DIM},condition=1,sigma={SIGMA:g},zeta={ZETA:g},samples={samples}"
    flags = ["--problem", problem, "--batch-size", "1", "--step-size", repr(step_size), "--topology", "ring"]
    flags += ["--epochs", repr(steps * workers / samples), "--evaluations", str(steps), "--dtype", "float64"]
    run = trace(folder / f"d_psgd-{workers}-{steps}.h5", "d_psgd", workers, *flags)
    gap = float(run.column("evaluations", "suboptimality")[0])
    measured = float((run.column("evaluations", "gradient_norm")[:steps] ** 2).mean())
    return Row(
        "d_psgd", workers, steps, step_size, measured, gossip_bound(step_size, steps, workers, decay, 1, variance, gap)
    )


def bounds(folder: Path, lengths: Sequence[int] = LENGTHS, workers: Sequence[int] = (1, 5)) -> list[Row]:
    """What was measured and what is promised; draws both against the number of steps."""
    rows = [sign_sgd(folder, steps, n) for n in workers for steps in lengths]
    rows += [d_psgd(folder, 4 * steps, n) for n in (4, 8) for steps in lengths]
    shown = Table("program", "workers", "steps K", "step size", "measured", "bound", "bound / measured")
    for row in rows:
        numbers = f"{row.step_size:.3g}", f"{row.measured:.3g}", f"{row.bound:.3g}", f"{row.bound / row.measured:.3g}"
        shown.add_row(row.program, str(row.workers), str(row.steps), *numbers)
    Console().print(shown)
    draw(rows, folder / "bounds.png")
    return rows


def draw(rows: Sequence[Row], out: Path) -> None:
    looks = iter((("#000000", "s"), ("#D55E00", "o"), ("#0072B2", "D"), ("#009E73", "v")))
    labels = {
        "sign_sgd": ("signSGD", "mean l1 norm of the\ngradient, squared"),
        "d_psgd": ("D-PSGD, ring", "mean squared\nnorm of the gradient"),
    }
    with house_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, 2 * HEIGHT), layout="constrained")
        for axes, (program, (title, label)) in zip(figure.subplots(2, 1), labels.items(), strict=True):
            mine = [row for row in rows if row.program == program]
            for n in dict.fromkeys(row.workers for row in mine):
                of_n, (color, marker) = [row for row in mine if row.workers == n], next(looks)
                steps, many = [row.steps for row in of_n], f"{n} worker{'s' * (n > 1)}"
                axes.plot(steps, [row.measured for row in of_n], color=color, marker=marker, label=many)
                axes.plot(steps, [row.bound for row in of_n], color=color, dashes=(5, 2), linewidth=0.9)
            log_axis(axes)
            log_ticks(axes, sorted({row.steps for row in mine}))
            axes.set_ylabel(label)
            axes.set_title(title)
        axes.plot([], [], dashes=(5, 2), label="bound", **LAW)
        axes.set_xlabel("steps K, for which the step size is chosen")
        add_legend(figure)
        with output(out) as file:
            figure.savefig(file, format=out.suffix[1:])
    print(f"wrote {out}")
