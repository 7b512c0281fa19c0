"""Rates and traffic at the busiest rank against the number of workers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from outpace.benchmarks.studies.launches import draw, trace

DIMS: Final = {"100 KB": 25_000, "4 MB": 1_000_000, "40 MB": 10_000_000}  # of float32


COMPUTE_TIME_S: Final = {"100 KB": 0.02, "4 MB": 0.05, "40 MB": 0.5}


PROGRAMS: Final = ("allreduce_sgd", "a_psgd", "d_psgd", "ad_psgd", "d2", "eamsgd")


def busiest_rank(
    folder: Path, seconds: float = 6, workers: Sequence[int] = (2, 4, 8), sizes: Sequence[str] = tuple(DIMS)
) -> dict[tuple[str, str, int], float]:
    """(size, program, workers) -> models that the busiest rank sends, or receives if that is more, per gradient of
    each worker. Draws `steps-rate` for each size.

    Compute time is slept, so that the workers may share cores; their transfers share them as well, which limits the
    rates of the largest models, not the traffic.
    """
    models = {}
    for size in sizes:
        runs = []
        for program in PROGRAMS:
            for n in workers:
                flags = ["--problem", f"quadratic:dim={DIMS[size]}", "--compute-time", f"{COMPUTE_TIME_S[size]:g}"]
                flags += ["--time-budget", f"{seconds:g}", "--evaluations", "1", "--dtype", "float32"]
                flags += ["--period", "1"] if program == "eamsgd" else []
                run = trace(folder / f"{size.replace(' ', '')}-{program}-{n}.h5", program, n, *flags)
                models[size, program, n] = run.busiest_nbytes() / (4 * DIMS[size])
                runs.append(run)
        draw("steps-rate", runs, folder / f"steps-rate-{size.replace(' ', '')}.png")
    shown = Table("size", "program", *(f"n = {n}" for n in workers), title="models through the busiest rank")
    for size in sizes:
        for program in PROGRAMS:
            shown.add_row(size, program, *(f"{models[size, program, n]:.2f}" for n in workers))
    Console().print(shown)
    return models
