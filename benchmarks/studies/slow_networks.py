"""Programs behind slow links, beside what the alpha-beta model says: one slow link, shared links, a server's link.

A model of 4 MB and 50 ms of slept compute, so that the workers may share cores. These studies need what `--links` does.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from outpace.benchmarks.machine import links
from outpace.benchmarks.studies import alpha_beta
from outpace.benchmarks.studies.launches import draw, trace, words
from outpace.benchmarks.trace.run import Run, exchanges_per_gradient

DIM: Final = 1_000_000  # of float32
NBYTES: Final = 4 * DIM
COMPUTE_S: Final = 0.05
SAMPLES, BATCH_SIZE = 1024, 16  # of an epoch, and of a gradient
SYNCHRONOUS: Final = ("allreduce_sgd", "d_psgd", "d2")
COMPARED: Final = ("gradients/s (quartiles)", "model", "over it")
LEAST_STEPS: Final = 2  # of a synchronous program, however long they take


def slow_link(
    folder: Path, launches: int = 5, workers: int = 8, seconds: float = 3, factors: Sequence[float] = (10, 100)
) -> dict[tuple[str, float], float]:
    """(program and whose link is slow, its factor) -> the rate that is kept, the median of launches, over that with all
    links at 1 Gbit/s. Launches of all kinds are interleaved.

    The slow link is the last worker's, or the server's. A quarter of an hour with 5 launches and 8 workers.
    """
    cases = {program: (program, workers - 1) for program in alpha_beta.PROGRAMS}
    cases |= {"a_psgd, server": ("a_psgd", workers)}
    found: dict[tuple[str, float], list[Run]] = {}
    for seed in range(launches):
        for case, (program, rank) in cases.items():
            for factor in (1, *factors):
                spec = "all:rate=1gbit" if factor == 1 else f"fixed:rank={rank},factor={factor:g},others=1gbit"
                name = f"{program}-{workers}-{f'{rank}-{factor:g}' if factor > 1 else 'equal'}-{seed}.h5"
                found.setdefault((case, factor), []).append(_run(folder / name, program, workers, spec, seconds, seed))
    shown = Table("program", "slowed", *COMPARED, "kept", "by the model", title=f"one slow link of {workers}")
    kept = {}
    for (case, factor), runs in found.items():
        equal, expected = found[case, 1], _expected(runs[0])
        kept[case, factor] = _median(runs) / _median(equal)
        shares = kept[case, factor], expected / _expected(equal[0])
        shown.add_row(case, f"{factor:g}x", *_compared(runs), *(f"{share:.3g}" for share in shares))
    Console(width=120).print(shown)
    drift = Table("slowed", "exchanges per gradient", "consensus", "final loss", title="AD-PSGD")
    for factor in (1, *factors):
        runs = found["ad_psgd", factor]
        exchanges = [exchanges_per_gradient(run) or 0.0 for run in runs]
        consensus = [float(run.column("evaluations", "consensus")[-1]) for run in runs]
        drift.add_row(f"{factor:g}x", *map(_quartiles, (exchanges, consensus, [run.final_loss() for run in runs])))
    Console(width=120).print(drift)
    return kept


def shared_links(folder: Path, launches: int = 3, workers: int = 8, seconds: float = 10) -> dict[str, float]:
    """program -> its epoch time over AD-PSGD's in the same launch, the median of launches, behind links of 1 Gbit/s of
    which others leave a tenth half of the time. The same seed gives every program the same changes. Three minutes.

    The abstract of AD-PSGD's paper (Lian et al., ICML 2018) says 4 to 8 times, of synchronous programs over AD-PSGD, on
    a cluster that shares its network, with up to 128 P100 GPUs.
    """
    spec = "shared:rate=1gbit,share=0.1,period=2,fraction=0.5"
    programs = ("ad_psgd", "d_psgd", "allreduce_sgd", "a_psgd")
    found: dict[str, list[Run]] = {program: [] for program in programs}
    for seed in range(launches):
        for program in programs:
            name = f"{program}-{workers}-{seed}.h5"
            flags = ["--time-budget", f"{seconds:g}"]
            found[program].append(trace(folder / name, program, workers, *_flags(spec, seed), *flags))
    shown = Table("program", "epoch, s", "over AD-PSGD's", title=f"{spec}, {workers} workers")
    over = {}
    for program, runs in found.items():
        ratios = [run.epoch_time() / ours.epoch_time() for run, ours in zip(runs, found["ad_psgd"], strict=True)]
        over[program] = statistics.median(ratios)
        shown.add_row(program, _quartiles([run.epoch_time() for run in runs]), _quartiles(ratios))
    Console(width=120).print(shown)
    draw("loss-time", [run for runs in found.values() for run in runs], folder / "loss-time.png")
    return over


def server_link(
    folder: Path, launches: int = 3, workers: Sequence[int] = (2, 4, 8), seconds: float = 5
) -> dict[tuple[str, int], float]:
    """(program, workers) -> gradients/s, the median of launches, behind links of 100 Mbit/s: of A-PSGD, whose server's
    link fills, and of AD-PSGD. Three minutes."""
    found: dict[tuple[str, int], list[Run]] = {}
    for seed in range(launches):
        for program in ("a_psgd", "ad_psgd"):
            for n in workers:
                out = folder / f"{program}-{n}-{seed}.h5"
                run = _run(out, program, n, "all:rate=100mbit", seconds, seed)
                found.setdefault((program, n), []).append(run)
    shown = Table("program", "workers", *COMPARED, title="behind links of 100 Mbit/s")
    for (program, n), runs in found.items():
        shown.add_row(program, str(n), *_compared(runs))
    Console(width=120).print(shown)
    draw("steps-rate", [run for runs in found.values() for run in runs], folder / "steps-rate.png")
    return {case: _median(runs) for case, runs in found.items()}


def _flags(spec: str, seed: int) -> list[str]:
    flags = {"problem": f"quadratic:dim={DIM},samples={SAMPLES}", "dtype": "float32", "batch-size": BATCH_SIZE}
    flags |= {"compute-time": COMPUTE_S, "evaluations": 1, "links": spec, "seed": seed}
    return words(flags)


def _run(out: Path, program: str, workers: int, spec: str, seconds: float, seed: int) -> Run:
    """A run of so many seconds. A synchronous program makes the steps that the model expects of them: by a limit of
    time it would end some steps after it, of several seconds each."""
    if program in SYNCHRONOUS:
        per_s = _model(program, spec, workers) / workers
        steps = max(LEAST_STEPS, round(seconds * per_s))
        limit = ["--epochs", f"{steps * workers * BATCH_SIZE / SAMPLES:.10g}"]
    else:
        limit = ["--time-budget", f"{seconds:g}"]
    return trace(out, program, workers, *_flags(spec, seed), *limit)


def _model(program: str, spec: str, workers: int) -> float:
    ranks = workers + (program == "a_psgd")
    limits = [links.parse(spec).of_rank(rank) or np.inf for rank in range(ranks)]
    return alpha_beta.gradients_per_s(program, [links.GOODPUT * limit / 8 for limit in limits], NBYTES, COMPUTE_S)


def _expected(run: Run) -> float:
    return _model(run.attrs["algorithm"], run.attrs["links"], run.attrs["n_workers"])


def _median(runs: Sequence[Run]) -> float:
    return statistics.median(run.steps_per_s() for run in runs)


def _quartiles(values: Sequence[float]) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.3g} ({low:.3g}-{high:.3g})"


def _compared(runs: Sequence[Run]) -> tuple[str, str, str]:
    """Cells of a table with the columns COMPARED."""
    measured, expected = [run.steps_per_s() for run in runs], _expected(runs[0])
    return _quartiles(measured), f"{expected:.3g}", f"{statistics.median(measured) / expected:.2f}"
