"""The pace of the others beside a slow worker."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from outpace.benchmarks.studies.launches import draw, trace


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
