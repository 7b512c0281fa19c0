"""All programs at numbers of workers that no machine here has, in simulated time: rates, and time to a loss."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from outpace.benchmarks.studies.launches import draw, trace
from outpace.benchmarks.sweeps.programs import config_of, programs
from outpace.benchmarks.trace.common_loss import common_loss
from outpace.benchmarks.trace.run import Run

MACHINE: Final = "10gbit"
COMPUTE_S: Final = 0.1  # of a gradient
WIRE_BYTES: Final = 102e6  # as of ResNet-50's 25.6 million parameters in float32
CONDITIONS: Final = {
    "equal": (),
    "one slow": ("--stragglers", "fixed:rank=0,factor=10"),
    "lognormal": ("--stragglers", "lognormal:sigma=1"),
    "one slow link": ("--links", "fixed:rank=0,factor=10,others=10gbit"),
    "shared links": ("--links", "shared:rate=10gbit,share=0.1,period=2,fraction=0.5"),
}
# Of few hops, so that an end is soon agreed on; D^2 wants it lazy, and SGP is for a directed one.
GRAPHS: Final = {"d2": "exponential:lazy=1", "sgp": "one-peer"}


def beyond(
    folder: Path,
    workers: Sequence[int] = (16, 64, 256, 1024),
    seconds: float = 10,
    chosen: Sequence[str] = tuple(programs()),
    conditions: Sequence[str] = tuple(CONDITIONS),
) -> dict[tuple[str, str, int], tuple[float, float]]:
    """(condition, program, workers) -> gradients/s and seconds to a common loss, infinite where it is not reached.
    Draws `steps-rate` for each condition. An hour and a half for all programs."""
    found = {}
    for condition in conditions:
        runs = [_run(folder, condition, program, n, seconds) for program in chosen for n in workers]
        loss = common_loss(runs)
        for run in runs:
            reached = run.time_to_loss(loss)
            key = condition, run.attrs["algorithm"], run.attrs["n_workers"]
            found[key] = run.steps_per_s(), np.inf if reached is None else reached
        draw("steps-rate", runs, folder / f"steps-rate-{condition.replace(' ', '-')}.png")
        shown = Table("program", *(f"n = {n}" for n in workers), title=f"{condition}: gradients/s, s to {loss:g}")
        for program in chosen:
            cells = (found[condition, program, n] for n in workers)
            shown.add_row(program, *(f"{rate:.4g}, {time:.3g}" for rate, time in cells))
        Console().print(shown)
    return found


def _run(folder: Path, condition: str, program: str, n: int, seconds: float) -> Run:
    flags: dict[str, Any] = {"simulate": MACHINE, "wire-bytes": WIRE_BYTES, "compute-time": COMPUTE_S}
    flags |= {"problem": "quadratic:dim=1000,sigma=1,samples=16384", "evaluations": 10, "time-budget": seconds}
    if config_of(program).topology:
        flags["topology"] = GRAPHS.get(program, "exponential")
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    out = folder / f"{program}-{condition.replace(' ', '-')}-{n}.h5"
    return trace(out, program, n, *words, *CONDITIONS[condition])
