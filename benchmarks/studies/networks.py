"""Networks on real images: accuracies side by side after the same epochs, and where the time of a step goes."""

import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from mpi4py import MPI
from rich.console import Console
from rich.table import Table

from outpace.benchmarks import problems
from outpace.benchmarks.problems import Setting
from outpace.benchmarks.problems.image_folder import HELD_OUT, TRAIN
from outpace.benchmarks.studies.launches import SIMULATED, trace, words
from outpace.benchmarks.trace.run import Run, exchanges_per_gradient

PROGRAMS: Final = ("allreduce_sgd", "d_psgd", "ad_psgd")
FASHION: Final[dict[str, Any]] = {  # of all three
    "problem": "torch:model=lenet5,data=fashion-mnist",
    "dtype": "float32",
    "sampling": "shuffle",
    "batch-size": 16,
    "step-size": 0.1,
    "schedule": "cosine",
    "epochs": 36,  # with fewer, who learns a little faster is ahead
    "evaluations": 1,
    **SIMULATED,
}
GRAPH: Final = {"topology": "exponential"}
BATCH: Final = 16  # of one worker, in `step_times`
TIMED: Final[dict[str, tuple[str, ...]]] = {  # with steps that lower the loss soon, where the defaults do not
    "allreduce_sgd": ("--step-size", "0.1"),
    "d_psgd": ("--step-size", "0.1"),
    "d2": ("--step-size", "0.1"),
    "sign_sgd": ("--step-size", "0.002", "--schedule", "constant"),
    "quantized_sgd": ("--step-size", "0.05"),
    "ad_psgd": ("--step-size", "0.1"),
    "svrg": ("--step-size", "0.05"),
    "katyusha_x": ("--step-size", "0.05", "--sigma", "0.1"),
}


def fashion(folder: Path, seeds: int = 3, workers: int = 8) -> dict[str, float]:
    """program -> its accuracy on the 10,000 held-out images after the same epochs, the median over seeds.

    LeNet-5 on Fashion-MNIST, `FASHION`. Simulated: gradients are real, and AD-PSGD averages as if each worker had a
    core of its own.
    """
    found: dict[str, list[Run]] = {program: [] for program in PROGRAMS}
    for seed in range(seeds):
        for program in PROGRAMS:
            given = FASHION | ({} if program == "allreduce_sgd" else GRAPH) | {"seed": seed}
            out = folder / f"{program}-{workers}-{seed}.h5"
            found[program].append(trace(out, program, workers, *words(given)))
    shown = Table("program", "accuracy by seed", "median", "held-out loss", "loss", "exchanges per gradient")
    shown.title = f"LeNet-5, Fashion-MNIST, {workers} workers, {FASHION['epochs']} epochs, simulated"
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
    return medians


def step_times(
    folder: Path, data: Path = Path("data/cifar10-jpeg"), steps: int = 100, fewer: int = 2000
) -> dict[str, tuple[dict[str, float], float]]:
    """program -> (seconds per step, in all and by what they go to; the last loss over the first).

    ResNet-20 by 2 workers on images in folders (`data`, as they are for `data=folder:`), batch 16 of each. SVRG and
    Katyusha X make so many inner steps of one epoch, and a gradient of all their images, which is in their steps' time:
    they have `fewer` images, as many of each class. A gradient's time is divided by the CPU time that decoding and the
    network take in one process.
    """
    problem = "torch:model=resnet20,data=folder:{},side=32,evaluated=256"
    decoding, n_total = _decoding(problem.format(data.resolve()))
    flags = ["--dtype", "float32", "--evaluations", "1"]
    shown = Table("program", "s per step", "decode", "network", "wait", "beside it", "rest", "loss")
    shown.title = f"ResNet-20, images of 32 x 32 in folders, 2 workers, batch {BATCH}, {steps} steps"
    found = {}
    for program, own in TIMED.items():
        images, epochs = data, 2 * BATCH * steps / n_total
        if program in ("svrg", "katyusha_x"):
            images = _some(data, fewer, folder / "images")
            epochs = 1 + 2 * 2 * BATCH * steps / fewer
            own += ("--batch-size", str(2 * BATCH), "--epoch-length", f"fixed:m={steps}")
        else:
            own += ("--batch-size", str(BATCH))
        own += ("--problem", problem.format(images.resolve()), "--epochs", f"{epochs:.10g}")
        run = trace(folder / f"{program}.h5", program, 2, *flags, *own)
        spent = {what: float(seconds.mean()) / steps for what, seconds in run.time_by_rank().items()}
        parts = {
            "decode": decoding * spent["compute"],
            "network": (1 - decoding) * spent["compute"],
            "wait": spent["wait"],
            "beside it": spent["exchange"],
            "rest": spent["idle"],
        }
        loss = run.column("evaluations", "loss")
        whole = float(run.attrs["wall_s"]) / steps
        found[program] = parts | {"all": whole}, float(loss[-1] / loss[0])
        shares = (f"{seconds / whole:.1%}" for seconds in parts.values())
        shown.add_row(run.title, f"{whole:.3f}", *shares, f"{loss[0]:.2f} to {loss[-1]:.2f}")
    console = Console(width=120)
    console.print(shown)
    console.print(f"decode: {decoding:.1%} of a gradient's CPU time in one process, of files in memory")
    console.print("beside it: exchanges of AD-PSGD's communication thread, while gradients are computed")
    return found


def _some(data: Path, count: int, folder: Path) -> Path:
    """`folder`, with links to so many of the training images, as many of each class, and to all that are held out."""
    classes = sorted(path.name for path in (data / TRAIN).iterdir() if path.is_dir())
    for name in classes:
        (folder / TRAIN / name).mkdir(parents=True, exist_ok=True)
        for image in sorted((data / TRAIN / name).iterdir())[: count // len(classes)]:
            _link(folder / TRAIN / name / image.name, image)
    for name in HELD_OUT:
        if (data / name).is_dir():
            _link(folder / name, data / name)
    return folder


def _link(link: Path, target: Path) -> None:
    if not link.exists():
        link.symlink_to(target.resolve())


def _decoding(text: str, batches: int = 10) -> tuple[float, int]:
    """The share of decoding in the CPU time of a gradient, in the median of so many batches; samples in all.

    Of files that are in memory, and by a processor whose caches have what the last gradient left in them.
    """
    problem: Any
    problem, _ = problems.build(text, Setting(MPI.COMM_SELF, range(2), 2, "iid", 0, "float32", np, BATCH))
    x, rng, shares = problem.x0(), np.random.default_rng(0), []
    g = np.empty_like(x)
    for _ in range(batches):
        batch = rng.integers(problem.n_samples, size=BATCH)
        problem.gradient(x, batch, g)
        began = time.process_time()
        problem.train.take(batch)
        decoded = time.process_time()
        problem.gradient(x, batch, g)
        shares.append((decoded - began) / (time.process_time() - decoded))
    return float(np.median(shares)), problem.n_total
