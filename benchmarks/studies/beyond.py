"""All programs at numbers of workers that no machine here has, in simulated time: rates, and time to a loss."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from outpace.benchmarks.studies.launches import draw, words
from outpace.benchmarks.sweeps import programs as suite
from outpace.benchmarks.trace.common_loss import common_loss
from outpace.benchmarks.trace.files import output
from outpace.benchmarks.trace.run import Run
from outpace.comm import machines
from outpace.comm.errors import UserError

MACHINE: Final = "10gbit"
PACKETS: Final = 16  # of a model: each costs the simulation two events, and a share of a port is right to one of them
STEPS: Final = 20  # of a worker, on average where workers share them
SECONDS: Final = 200.0  # of simulated time, at most: enough for a server to hear 1,024 workers
BATCH: Final = 16  # samples of a gradient
SAMPLES: Final = 16_384


class Condition(NamedTuple):
    """Seconds of a gradient, bytes of a model, and what is unequal."""

    compute_s: float = 0.1
    wire_bytes: float = 102e6  # as of ResNet-50's 25.6 million parameters in float32
    flags: tuple[str, ...] = ()


CONDITIONS: Final = {
    "equal": Condition(),
    "one slow": Condition(flags=("--stragglers", "fixed:rank=0,factor=10")),
    "lognormal": Condition(flags=("--stragglers", "lognormal:sigma=1")),
    "one slow link": Condition(flags=("--links", "fixed:rank=0,factor=10,others=10gbit")),
    "shared links": Condition(flags=("--links", "shared:rate=10gbit,share=0.1,period=2,fraction=0.5")),
    "small model": Condition(compute_s=0.01, wire_bytes=1e6),  # where latencies, desks and servers tell
}
# Of one message a step, or of few: in a richer graph at 1,024 workers a step is twenty models. D^2 wants it lazy.
GRAPHS: Final = {"d_psgd": "one-peer", "gradient_tracking": "one-peer", "sgp": "one-peer", "d2": "ring:lazy=1"}
ALL_WORKERS: Final = ("svrg", "katyusha_x")  # whose batch is that of all workers together
# For the figures: of each family one or two, as eighteen curves cannot be told apart.
DRAWN: Final = ("allreduce_sgd", "local_sgd", "m_sync_sgd", "a_psgd", "eamsgd", "d_psgd", "ad_psgd", "gossip_local_sgd")


class Found(NamedTuple):
    """Applied gradients per second, and seconds to the common loss, infinite where it is not reached."""

    rate: float
    to_loss_s: float

    def __str__(self) -> str:
        return f"{self.rate:.4g}, {f'{self.to_loss_s:.3g} s' if np.isfinite(self.to_loss_s) else 'not reached'}"


def beyond(
    folder: Path,
    programs: Sequence[str] = tuple(suite.programs()),
    n: Sequence[int] = (16, 64, 256, 1024),
    conditions: Sequence[str] = tuple(CONDITIONS),
) -> None:
    """Writes beyond.md, and the figure `steps-rate` of each condition. Some seconds of one core for each program and
    condition, most of them for the largest number of workers. Traces of other parts that are there already are in the
    table and the figures, too."""
    for condition in conditions:
        for workers in n:
            for program in programs:
                _run(folder, condition, program, workers)
    sections = [_section(folder, condition) for condition in CONDITIONS]
    with output(folder / "beyond.md") as out:
        out.write("\n".join(filter(None, [HEAD, *sections])).encode())
    print(f"wrote {folder / 'beyond.md'}")


def _run(folder: Path, condition: str, program: str, n: int) -> None:
    """Make the trace unless it is there, in this process: to start one takes longer than most of these runs."""
    from outpace.benchmarks.simulating.__main__ import main  # which starts MPI

    out = folder / f"{condition.replace(' ', '-')}_{program}_{n}.h5"
    if out.exists():
        return
    compute_s, wire_bytes, unequal = CONDITIONS[condition]
    config, batch = suite.config_of(program), BATCH * (n if program in ALL_WORKERS else 1)
    flags: dict[str, Any] = {"simulate": _machine(folder, wire_bytes), "wire-bytes": wire_bytes}
    flags |= {"compute-time": compute_s * batch / BATCH, "batch-size": batch, "evaluations": 10, "out": out}
    flags |= {"problem": f"quadratic:dim=1000,sigma=1,rows=25,samples={SAMPLES}"}
    if config.asynchronous and not config.servers:  # its last ticket may be the slowest worker's, of a run this short
        flags |= {"time-budget": STEPS * compute_s}
    else:
        flags |= {"epochs": STEPS * n * BATCH / SAMPLES, "time-budget": SECONDS}
    if config.topology:
        flags["topology"] = GRAPHS.get(program, "ring")
    if code := main([suite.module_of(program), str(n + config.servers), *words(flags), *unequal]):
        raise UserError(f"{program} on {n} workers, {condition}: exit code {code}")


def _machine(folder: Path, wire_bytes: float) -> Path:
    """The preset's file, with longer packets."""
    file = folder / f"{MACHINE}-{wire_bytes / 1e6:g}mb.toml"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        machine = replace(machines.read(MACHINE), packet_bytes=round(wire_bytes / PACKETS))
        with output(file) as out:
            out.write(machine.to_toml().encode())
    return file


def _section(folder: Path, condition: str) -> str:
    """The table of a condition's traces, which are drawn too; empty where there are none."""
    runs = [Run(path) for path in sorted(folder.glob(f"{condition.replace(' ', '-')}_*.h5"))]
    if not runs:
        return ""
    loss = common_loss(runs)
    found = {(run.name, run.attrs["n_workers"]): _found(run, loss) for run in runs}
    sizes = sorted({n for _, n in found})
    lines = [f"\n## {condition.capitalize()}\n\nTo a loss of {loss:g}.\n"]
    lines += ["| program | " + " | ".join(f"n = {n}" for n in sizes) + " |", "|---" * (1 + len(sizes)) + "|"]
    for program in sorted({program for program, _ in found}):
        cells = [str(found.get((program, n), "")) for n in sizes]
        lines.append(f"| {program} | {' | '.join(cells)} |")
    drawn = [run for run in runs if run.attrs["algorithm"] in DRAWN]
    kept = [run for run in drawn if sum(run.attrs["algorithm"] == each.attrs["algorithm"] for each in drawn) > 1]
    if kept:
        draw("steps-rate", kept, folder / f"beyond-{condition.replace(' ', '-')}.png")
    return "\n".join([*lines, ""])


def _found(run: Run, loss: float) -> Found:
    """The rate is that of the first nine tenths: the last gradients, of those who are slow, come alone."""
    reached, t_s = run.time_to_loss(loss), np.sort(run.applied("t_s"))
    most = max(1, 9 * len(t_s) // 10)
    return Found(float(most / t_s[most - 1]), np.inf if reached is None else reached)


HEAD: Final = f"""\
# Beyond the machine

Simulated runs on the preset `{MACHINE}`, {STEPS} gradients of each worker: applied gradients per second of all workers,
and seconds to a common loss. A gradient takes 100 ms and a model has 102 MB; with the small model 10 ms and 1 MB. No
error of this preset is known.
"""
