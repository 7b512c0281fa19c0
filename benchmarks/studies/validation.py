"""Simulated runs beside real ones that they were not fitted to: all programs on 8 workers or more, behind links and
without.

For each network a machine is measured by four ranks (`outpace calibrate`). On it every program is simulated for some
seconds, and then run for as many. The errors are of the median step, of the time to a common loss and of the whole run:
of the seconds in which all workers together make a gradient.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from outpace.benchmarks.figures.validation import PROMISED, SIMULATED, bound, gradient_s, pairs, step_s
from outpace.benchmarks.machine import launcher
from outpace.benchmarks.studies.launches import draw, trace, words
from outpace.benchmarks.sweeps import programs as suite
from outpace.benchmarks.trace.files import output
from outpace.benchmarks.trace.run import Run
from outpace.comm import machines
from outpace.comm.errors import UserError

NETWORKS: Final = {
    "20mbit": "all:rate=20mbit",
    "50mbit": "all:rate=50mbit",
    "1gbit": "all:rate=1gbit",
    "none": "none",
}
DIM: Final = 50_000  # of float32: 200 KB, 84 ms at 20 Mbit/s
ROWS: Final = 200  # of 250 columns, which PowerSGD asks for
COMPUTE_S: Final = 0.05  # slept, so that the workers may share cores
SAMPLES, BATCH_SIZE = 1024, 16  # of an epoch, and of a gradient
EVALUATIONS: Final = 40
COMMON: Final = 0.7  # of the way that the logarithm of the loss comes in both runs


class Row(NamedTuple):
    """A program on so many workers and a network: seconds of the real run and of the simulated one."""

    program: str
    workers: int
    links: str
    bound: str
    step: tuple[float, float]
    loss: tuple[float, float]
    gradient: tuple[float, float]


def validation(
    folder: Path,
    programs: Sequence[str] = tuple(suite.programs()),
    n: Sequence[int] = (8,),
    networks: Sequence[str] = tuple(NETWORKS),
    seconds: float = 2,
) -> dict[str, float]:
    """bound -> the share of the medians of steps whose error is as promised. A quarter of a minute for each program on
    each network: the real runs want a machine that does nothing else. Writes validation.md and validation.png, of all
    traces in the folder."""
    files = dict(calibrated(folder, networks))
    for workers in n:
        for network, machine in files.items():
            for program in programs:
                _pair(folder, program, network, machine, workers, seconds)
    runs = [Run(path) for path in sorted(folder.glob("*.h5"))]
    rows = [row(*pair) for pair in pairs(runs)]
    with output(folder / "validation.md") as out:
        out.write(table(rows, next(run for run in runs if run.attrs["claim_class"] != SIMULATED)).encode())
    print(f"wrote {folder / 'validation.md'}")
    for name, file in files.items():
        state(file, [each for each in rows if each.links == NETWORKS[name]])
    draw("validation", runs, folder / "validation.png")
    return {kind: _kept([each for each in rows if each.bound == kind], promise) for kind, promise in PROMISED.items()}


def calibrated(folder: Path, networks: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Each network's name and the file of its machine, measured now unless it is there. Raises UserError."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in networks:
        file = folder / f"{name}.toml"
        if not file.exists():
            arguments = [str(file), f"--links={NETWORKS[name]}"]
            ended = launcher.launch("outpace.benchmarks.calibration", 4, arguments)
            if ended.code or ended.told:
                raise UserError(launcher.explain(ended) or launcher.said("calibrate", ended))
        yield name, file


def _pair(folder: Path, program: str, network: str, machine: Path, workers: int, seconds: float) -> None:
    """The prediction first, then the run that it is of."""
    flags = _flags(network, seconds)
    out = folder / f"{program}-{network}-{workers}-simulated.h5"
    trace(out, program, workers, *flags, "--simulate", str(machine))
    trace(out.with_stem(f"{program}-{network}-{workers}-real"), program, workers, *flags)


def _flags(network: str, seconds: float) -> list[str]:
    flags: dict[str, Any] = {"problem": f"quadratic:dim={DIM},rows={ROWS},samples={SAMPLES}", "dtype": "float32"}
    flags |= {"batch-size": BATCH_SIZE, "compute-time": COMPUTE_S, "evaluations": EVALUATIONS}
    flags |= {"links": NETWORKS[network], "time-budget": seconds}
    return words(flags)


def row(real: Sequence[Run], predicted: Sequence[Run]) -> Row:
    (run,), (other,) = real, predicted
    target = common_loss(run, other)
    times = [each.time_to_loss(target) for each in (run, other)]
    loss = tuple(np.nan if time is None else time for time in times)
    steps, wholes = ((measure(run), measure(other)) for measure in (step_s, gradient_s))
    workers = run.attrs["n_workers"]
    return Row(run.name, workers, run.links, bound(run), steps, loss, wholes)  # type: ignore[arg-type]


def state(file: Path, rows: Sequence[Row]) -> None:
    """Write into a machine's file how wrong its predictions were."""
    said = {}
    for kind in PROMISED:
        of_kind = [each for each in rows if each.bound == kind]
        errors = [abs(_error(each.step)) for each in of_kind]
        workers = " and ".join(str(n) for n in sorted({each.workers for each in of_kind}))
        if errors:
            worst = f"{100 * max(errors):.0f} %, in the median {100 * float(np.median(errors)):.0f} %"
            said[kind] = f"step at most {worst}, {len(errors)} runs on {workers} workers"
    with output(file) as out:
        out.write(replace(machines.read(str(file)), stated_error=said).to_toml().encode())


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
        cells = (f"{times[0]:.3g} | {_error(times):+.1%}" for times in (each.step, each.loss, each.gradient))
        lines.append(f"| {each.program} | {each.workers} | {each.links} | {each.bound} | {' | '.join(cells)} |")
    lines.append(FOOT)
    for kind, promise in PROMISED.items():
        of_kind = [each for each in rows if each.bound == kind]
        columns = zip(*((each.step, each.loss, each.gradient) for each in of_kind), strict=True)
        kept = (str(sum(abs(_error(times)) <= promise for times in column)) for column in columns)
        lines.append(f"| {kind}: {promise:.0%} | {len(of_kind)} | {' | '.join(kept) or '- | - | -'} |")
    return "\n".join([*lines, ""])


HEAD: Final = """\
# Simulated runs beside real ones

{date}, {cpu_model}, {cores} cores, {mpi_library}. `{problem}`, float32,
{compute_ms:g} ms of slept compute. Each network was measured by four ranks (`outpace calibrate`).

Seconds of the real run, and the error of the simulated one: of the median step, of the time to a common loss, and of
the whole run, by the seconds in which all workers together make a gradient.

| program | n | links | bound by | step, s | error | to a loss, s | error | gradient, s | error |
|---|---|---|---|---|---|---|---|---|---|"""
FOOT: Final = """
How many are within the promise:

| bound by, promise | runs | step | to a loss | whole run |
|---|---|---|---|---|"""
