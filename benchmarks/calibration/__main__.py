"""On every rank of `outpace calibrate`: OUT LINKS PROBLEM..."""

import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

from mpi4py import MPI
from rich.console import Console
from rich.table import Table

from outpace.benchmarks.calibration import fit, measure
from outpace.benchmarks.machine import launcher, links, namespaces, provenance
from outpace.benchmarks.trace.files import output
from outpace.comm import agreement
from outpace.comm.errors import UserError
from outpace.comm.machines import Machine
from outpace.comm.meter import MeteredComm


def calibrate(comm: MeteredComm, out: Path, behind: str, problems: Sequence[str]) -> Machine:
    """Measure, and let rank 0 write the file; collective. Raises UserError."""
    namespaces.check_behind(behind)
    samples = {f"compute {problem}": measure.compute(comm, problem) for problem in problems}
    sizes, of_patterns = measure.patterns(comm)
    overlapping = measure.overlapping(comm)
    samples |= of_patterns | measure.processors(comm)
    where = provenance.describe(comm, gpu=False)
    source = f"outpace calibrate, {comm.size} ranks, {datetime.date.today()}: {where['cpu_model']}, "
    source += f"{where['cores']} cores, {' '.join(where['mpi_library'].split())}, links {behind}"
    machine = fit.machine(out.stem, source, behind, sizes, samples, overlapping)

    def write() -> None:
        with output(out) as file:
            file.write(machine.to_toml().encode())

    agreement.on_root(comm, write)
    return machine


def table(machine: Machine) -> Table:
    shown = Table(title=machine.source, title_justify="left")
    for column in ("", *measure.PATTERNS):
        shown.add_column(column, justify="right")
    for label, key, scale in (("ns per byte", "gap_s_per_byte", 1e9), ("latency, us", "latency_s", 1e6)):
        numbers = {pattern: scale * getattr(getattr(machine, key), pattern) for pattern in measure.PATTERNS}
        cells = (f"{number:.3g} +- {machine.spread[f'{key}.{pattern}']:.0%}" for pattern, number in numbers.items())
        shown.add_row(label, *cells)
    return shown


def main() -> None:
    comm = MeteredComm(MPI.COMM_WORLD)
    launcher.report(comm.rank)
    out, behind, *problems = sys.argv[1:]
    try:
        machine = calibrate(comm, Path(out), links.canonical(behind.removeprefix("--links=")), problems)
    except UserError as error:  # the same on every rank
        if comm.rank == 0:
            print(f"outpace: {error}", file=sys.stderr, flush=True)
        MPI.Finalize()
        sys.exit(2)
    if comm.rank == 0:
        Console(width=120).print(table(machine))
        print(f"wrote {out}")


if __name__ == "__main__":
    main()
    MPI.Finalize()
