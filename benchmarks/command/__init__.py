"""The `outpace` command: run a program, look at its trace, draw figures, measure the primitives, check the machine."""

import os
import signal

import mpi4py

# Ctrl-C ends it at once meanwhile: Python drops one that comes in a callback of an import.
interrupts = signal.getsignal(signal.SIGINT)
if interrupts == signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
mpi4py.rc.initialize = False  # this process launches MPI jobs and is none itself
os.environ.setdefault("UCX_DEBUG_SIGNO", "0")  # with MPI's library comes UCX, which would stop it at SIGHUP

import argparse
import errno
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

from outpace.benchmarks.command.arguments import parser
from outpace.benchmarks.machine import launcher, mpiexec, slurm_job, streams
from outpace.benchmarks.machine.account import Ended
from outpace.benchmarks.machine.leaving import leave
from outpace.benchmarks.sweeps.programs import module_of
from outpace.comm.errors import UserError

signal.signal(signal.SIGINT, interrupts)

FIRST: Final = """\
Two programs on four workers, the last of them ten times slower, and what became of it:

    outpace run ad_psgd -n 4 --compute-time 0.005 --stragglers fixed:rank=3,factor=10 --out gossip.h5
    outpace run allreduce_sgd -n 4 --compute-time 0.005 --stragglers fixed:rank=3,factor=10 --out allreduce.h5
    outpace show gossip.h5
    outpace plot loss-time gossip.h5 allreduce.h5 -o loss.png

`outpace --help` lists the commands, `outpace run PROGRAM --help` the flags of a program."""

UNREAD: Final = {errno.EPIPE: signal.SIGPIPE, errno.EIO: signal.SIGHUP}  # the reader is gone, the terminal is
LOOKS: Final = [
    [],
    ["show"],
    ["explain"],
    ["plot"],
    ["report"],
    ["export"],
]  # nothing is undone if nobody reads on: ... | head


def start() -> NoReturn:
    """`main`, as this process's command."""
    leave(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: that of the job for `run` and `micro`; 1 for a broken trace; 2 for something to put right."""
    arguments = sys.argv[1:] if arguments is None else arguments
    streams.open_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every encoding has the ² of D²
    try:
        code = _do(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        streams.say(f"outpace: {error}")
        return 1 if arguments[0] == "show" else 2
    except KeyboardInterrupt:  # nothing has been started that would have to be told of
        return 128 + signal.SIGINT
    except OSError as error:
        if error.errno not in UNREAD:  # mostly a full disk
            streams.say(f"outpace: {error.filename or arguments[0]}: {error.strerror or error}")
            return 2
        streams.forsake(sys.stdout)
        streams.forsake(sys.stderr)
        return 0 if _leaves_nothing_undone(arguments) else 128 + UNREAD[error.errno]


def _leaves_nothing_undone(arguments: Sequence[str]) -> bool:
    """Where nobody reads on: ... | head."""
    return not arguments or arguments[0] in {does.__name__ for does in LOOKING}


def _do(arguments: Sequence[str]) -> int:
    if not arguments:
        print(FIRST)
        return 0
    options, rest = parser().parse_known_args(arguments)
    if options.command == "run":
        options.flags = rest  # the program's own
    elif "files" in options and not any(word.startswith("-") for word in rest):
        options.files += map(Path, rest)  # argparse takes no files behind an option that stands behind the figure
    elif rest:
        parser().error(f"unrecognized arguments: {' '.join(rest)}")
    return COMMANDS[options.command](options)


def run(options: argparse.Namespace) -> int:
    slurm_job.check_allocation()
    ended = launcher.launch(module_of(options.program), options.workers, options.flags)
    _tell(ended, Path(launcher.value_of("--out", options.flags) or "").parent)
    if options.requeue and ended.code == os.EX_TEMPFAIL:  # it goes on from a checkpoint
        slurm_job.requeue()
    return ended.code


def _tell(ended: Ended, folder: Path | None = None) -> int:
    """Say what ended a launch, where it was one of its ranks; its exit code."""
    if explained := launcher.explain(ended, folder):
        streams.say(explained)
    return ended.code


def sweep(options: argparse.Namespace) -> int:
    from outpace.benchmarks.sweeps import runner
    from outpace.benchmarks.sweeps.description import load
    from outpace.benchmarks.sweeps.manifest import manifest

    described = load(options.file, options.out)
    if options.dry_run:
        print(manifest(described.points), end="")
        return 0
    if options.status:
        return runner.status(described, options.verbose)
    if options.point:
        return runner.run_one(described, options.point, options.retry_failed, options.requeue)
    if options.slurm:
        return runner.submit(described, options.retry_failed)
    return runner.run_here(described, options.retry_failed, options.requeue)


def jobscripts(options: argparse.Namespace) -> int:
    from outpace.benchmarks.sweeps.scripts import copy

    print(*copy(options.folder), sep="\n")
    return 0


def show(options: argparse.Namespace) -> int:
    from outpace.benchmarks.trace import inspection

    files = list(options.files)
    if options.recover:
        from mpi4py import MPI

        from outpace.benchmarks.running.recovery import recover

        MPI.Init()
        recovered = []
        for file in recover(options.recover):
            print(f"recovered {file}", flush=True)
            recovered.append(file)
        files = recovered + files
    if options.export_model or options.out:
        return _export_model(options)
    if not files:
        raise UserError("show needs a FILE, or --recover DIR")
    return inspection.show(files)


def explain(options: argparse.Namespace) -> int:
    import json

    from outpace.benchmarks import explaining
    from outpace.benchmarks.explaining import words
    from outpace.benchmarks.trace import inspection

    explained = explaining.explain(options.file)
    if options.json:
        print(json.dumps(explained.as_json(), indent=1))
        return 0
    out = inspection.console()
    for part in words.for_terminal(explained):
        out.print(part, highlight=False)
    return 0


def _export_model(options: argparse.Namespace) -> int:
    from mpi4py import MPI

    from outpace.benchmarks.running.export_model import export_model

    if not (options.export_model and options.out):
        raise UserError("show needs --export-model FILE and -o OUT together")
    MPI.Init()
    export_model(options.export_model, options.out)
    print(f"wrote {options.out}")
    return 0


def plot(options: argparse.Namespace) -> int:
    from outpace.benchmarks import figures

    if not options.figure:
        print("\n".join(figures.describe()))
        return 0
    out = options.out or Path(f"{options.figure}.{options.format or 'pdf'}")
    looks = {"width": options.width, "legend": options.legend, "form": options.format or "", "data": options.data}
    figures.draw(options.figure, options.files, out, options.where, options.group_by, options.loss, **looks)
    print(f"wrote {out}" + (f" and {options.data}" if options.data else ""))
    return 0


def report(options: argparse.Namespace) -> int:
    from outpace.benchmarks import reports

    print(f"wrote {reports.write(options.files, options.out, options.where)}")
    return 0


def export(options: argparse.Namespace) -> int:
    if options.perfetto or options.otf2:
        return _export_timeline(options)
    from outpace.benchmarks.trace.export import write_csv, write_parquet

    out = options.csv or options.parquet
    write = write_csv if options.csv else write_parquet
    print(f"wrote {write(options.files, out, options.where, options.loss)} row(s) into {out}")
    return 0


def _export_timeline(options: argparse.Namespace) -> int:
    from outpace.benchmarks.trace import to_otf2, to_perfetto

    if len(options.files) != 1:
        raise UserError(f"a timeline is of one run; {len(options.files)} files are given")
    if options.perfetto and not options.out:
        raise UserError("--perfetto needs -o OUT, such as -o run.pftrace")
    out = options.out if options.perfetto else options.otf2
    write = to_perfetto.write if options.perfetto else to_otf2.write
    print(f"wrote {write(options.files[0], out)} event(s) into {out}")
    return 0


def micro(options: argparse.Namespace) -> int:
    from outpace.benchmarks.micro import RANKS

    if options.name not in RANKS:
        raise UserError(f"unknown micro-benchmark '{options.name}'; allowed: {', '.join(RANKS)}")
    if options.dim and options.name != "step":
        raise UserError(f"--dim is of step; '{options.name}' has sizes of its own")
    ranks = options.workers or (2 if options.dim else RANKS[options.name])
    arguments = [options.name, options.backend, f"--links={options.links}", f"--dim={options.dim}"]
    if not (options.json or options.compare):
        return _tell(launcher.launch("outpace.benchmarks.micro", ranks, arguments))
    return _micro_kept(options, ranks, arguments)


def _micro_kept(options: argparse.Namespace, ranks: int, arguments: list[str]) -> int:
    """Measure, keep it as JSON, and show it beside what was kept earlier."""
    import tempfile

    from rich.console import Console

    from outpace.benchmarks import history

    old = history.read(options.compare) if options.compare else None
    with tempfile.TemporaryDirectory() as folder:
        kept = options.json or Path(folder) / "new.json"
        code = _tell(launcher.launch("outpace.benchmarks.micro", ranks, [*arguments, f"--json={kept}"]))
        if code:
            return code
        new = history.read(kept)
    if old:
        Console(width=120).print(history.compared(old, new))
    for warning in history.warnings(old, new) if old else history.spreads(new):
        streams.say(f"outpace: {warning}")
    return 0


def calibrate(options: argparse.Namespace) -> int:
    from outpace.comm import inputs

    try:
        from outpace.benchmarks.calibration.measure import RANKS
        from outpace.comm import network  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"calibrate needs {error.name}: pip install outpace[simulate]") from None
    inputs.folder(options.out.parent, "calibrate: -o: ")
    arguments = [str(options.out), f"--links={options.links}", *(options.problem or ["digits"])]
    return _tell(launcher.launch("outpace.benchmarks.calibration", RANKS, arguments))


def check(options: argparse.Namespace) -> int:
    from outpace.benchmarks.conformance.check import check as start

    return start(options.file, options.sizes, options.limit)


def claims(options: argparse.Namespace) -> int:
    from outpace.benchmarks.claims import ledger
    from outpace.benchmarks.claims.claim import Scale

    if options.list:
        ledger.listed(ledger.chosen(options.ids))
        return 0
    scale = Scale(options.quick, options.workers)
    return ledger.verify(options.ids, scale, options.out, options.slurm, options.retry_failed, options.retry_busy)


def doctor(options: argparse.Namespace) -> int:
    module = "outpace.benchmarks.machine.doctor"
    if options.nodes is None:
        return _tell(launcher.launch(module, 2, []))
    ranks, placement = mpiexec.one_a_node(options.nodes)
    return _tell(launcher.launch(module, ranks, ["--nodes"], placement=placement))


def race(options: argparse.Namespace) -> int:
    from outpace.benchmarks.studies.race import race as start

    return start(options.out, options.workers, options.factor, options.epochs, options.links)


LOOKING: Final = (show, explain, plot, report, export)  # at traces that there are
COMMANDS: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    does.__name__: does for does in (run, sweep, jobscripts, *LOOKING, micro, calibrate, check, claims, doctor, race)
}
