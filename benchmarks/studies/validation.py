"""Simulated runs beside real ones that they were not fitted to: all programs on 8 workers, behind links and without.

For each network a machine is measured by four ranks (`outpace calibrate`). On it every program is simulated, once for
some seconds, to learn how many epochs that is, and once for so many epochs; then it is run for as many. The errors are
of the median step, of the time to a common loss and of the whole run.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from outpace.benchmarks.figures.validation import PROMISED, SIMULATED, bound, pairs, step_s, total_s
from outpace.benchmarks.machine import launcher
from outpace.benchmarks.studies.launches import draw, trace
from outpace.benchmarks.sweeps.programs import programs
from outpace.benchmarks.trace.files import output
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

NETWORKS: Final = {
    "20mbit": "all:rate=20mbit",
    "50mbit": "all:rate=50mbit",
    "1gbit": "all:rate=1gbit",
    "none": "none",
}
DIM: Final = 50_000  # of float32: 200 KB, 84 ms at 20 Mbit/s
COMPUTE_S: Final = 0.05  # slept, so that the workers may share cores
SAMPLES, BATCH_SIZE = 1024, 16  # of an epoch, and of a gradient
EVALUATIONS: Final = 40
COMMON: Final = 0.7  # of the way that the logarithm of the loss comes in both runs


Plan = dict[tuple[str, str], float]  # epochs, by program and network


class Row(NamedTuple):
    """A program on a network: seconds of the real run and of the simulated one."""

    program: str
    links: str
    bound: str
    step: tuple[float, float]
    loss: tuple[float, float]
    total: tuple[float, float]


def validation(folder: Path, workers: int = 8, seconds: float = 2) -> dict[str, float]:
    """bound -> the share of the medians of steps whose error is as promised. Ten minutes: the real runs want a machine
    that does nothing else. Writes validation.md and validation.png."""
    machines = dict(calibrated(folder))
    epochs = planned(folder, machines, workers, seconds)
    runs = [*simulated(folder, machines, workers, epochs), *measured(folder, workers, epochs)]
    rows = [row(*pair) for pair in pairs(runs)]
    with output(folder / "validation.md") as file:
        file.write(table(rows, next(run for run in runs if run.attrs["claim_class"] != SIMULATED)).encode())
    print(f"wrote {folder / 'validation.md'}")
    draw("validation", runs, folder / "validation.png")
    return {kind: _kept([each for each in rows if each.bound == kind], promise) for kind, promise in PROMISED.items()}


def calibrated(folder: Path) -> Iterator[tuple[str, Path]]:
    """Each network's name and the file of its machine, measured now unless it is there. Raises UserError."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, spec in NETWORKS.items():
        file = folder / f"{name}.toml"
        if not file.exists():
            ended = launcher.launch("outpace.benchmarks.calibration", 4, [str(file), f"--links={spec}"])
            if ended.code or ended.told:
                raise UserError(launcher.explain(ended) or launcher.said("calibrate", ended))
        yield name, file


def planned(folder: Path, machines: dict[str, Path], workers: int, seconds: float) -> Plan:
    """For how many epochs each program runs on each network: as many as it makes in so many seconds, simulated."""
    epochs = {}
    for network, machine in machines.items():
        for program in programs():
            out = folder / f"{program}-{network}-{workers}-probe.h5"
            limit = ["--simulate", str(machine), "--time-budget", f"{seconds:g}"]
            probe = trace(out, program, workers, *_flags(NETWORKS[network]), *limit)
            epochs[program, network] = float(probe.column("evaluations", "epoch")[-1])
    return epochs


def simulated(folder: Path, machines: dict[str, Path], workers: int, plan: Plan) -> Iterator[Run]:
    for (program, network), epochs in plan.items():
        out = folder / f"{program}-{network}-{workers}-simulated.h5"
        limit = ["--simulate", str(machines[network]), "--epochs", f"{epochs:.10g}"]
        yield trace(out, program, workers, *_flags(NETWORKS[network]), *limit)


def measured(folder: Path, workers: int, plan: Plan) -> Iterator[Run]:
    for (program, network), epochs in plan.items():
        out = folder / f"{program}-{network}-{workers}-real.h5"
        yield trace(out, program, workers, *_flags(NETWORKS[network]), "--epochs", f"{epochs:.10g}")


def _flags(spec: str) -> list[str]:
    flags = {"problem": f"quadratic:dim={DIM},samples={SAMPLES}", "dtype": "float32", "batch-size": BATCH_SIZE}
    flags |= {"compute-time": COMPUTE_S, "evaluations": EVALUATIONS, "links": spec}
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def row(real: Sequence[Run], predicted: Sequence[Run]) -> Row:
    (run,), (other,) = real, predicted
    target = common_loss(run, other)
    times = [each.time_to_loss(target) for each in (run, other)]
    loss = tuple(np.nan if time is None else time for time in times)
    steps, totals = ((measure(run), measure(other)) for measure in (step_s, total_s))
    return Row(run.name, run.links, bound(run), steps, loss, totals)  # type: ignore[arg-type]


def common_loss(*runs: Run) -> float:
    """One that all of them reach: COMMON of the way from the start to the best loss of the worst of them, on a
    logarithmic scale."""
    losses = [run.column("evaluations", "loss") for run in runs]
    first, best = losses[0][0], max(np.nanmin(loss) for loss in losses)
    return float(first * (best / first) ** COMMON) if 0 < best < first else float(best)


def _kept(rows: Sequence[Row], promise: float) -> float:
    return float(np.mean([abs(_error(each.step)) <= promise for each in rows])) if rows else np.nan


def _error(times: tuple[float, float]) -> float:
    real, predicted = times
    return predicted / real - 1


def table(rows: Sequence[Row], run: Run) -> str:
    """As Markdown; `run` is one that tells where the real ones were made."""
    about = run.attrs | {"mpi_library": " ".join(run.attrs["mpi_library"].split()), "compute_ms": 1e3 * COMPUTE_S}
    lines = [HEAD.format(**about, date=about["started_utc"][:10])]
    for each in rows:
        cells = (f"{times[0]:.3g} | {_error(times):+.1%}" for times in (each.step, each.loss, each.total))
        lines.append(f"| {each.program} | {each.links} | {each.bound} | {' | '.join(cells)} |")
    lines.append(FOOT)
    for kind, promise in PROMISED.items():
        of_kind = [each for each in rows if each.bound == kind]
        columns = zip(*((each.step, each.loss, each.total) for each in of_kind), strict=True)
        kept = (str(sum(abs(_error(times)) <= promise for times in column)) for column in columns)
        lines.append(f"| {kind}: {promise:.0%} | {len(of_kind)} | {' | '.join(kept) or '- | - | -'} |")
    return "\n".join([*lines, ""])


HEAD: Final = """\
# Simulated runs beside real ones

{date}, {cpu_model}, {cores} cores, {mpi_library}. {n_workers} workers, {problem}, float32, {compute_ms:g} ms of slept
compute. Each network was measured by four ranks (`outpace calibrate`).

Seconds of the real run, and the error of the simulated one: of the median step, of the time to a common loss, and of
the whole run.

| program | links | bound by | step, s | error | to a loss, s | error | total, s | error |
|---|---|---|---|---|---|---|---|---|"""
FOOT: Final = """
How many are within the promise:

| bound by, promise | runs | step | to a loss | total |
|---|---|---|---|---|"""
