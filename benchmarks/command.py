"""The `outpace` command: run a program, look at its trace, draw figures, measure the primitives, check the machine."""

import mpi4py

mpi4py.rc.initialize = False  # this process launches MPI jobs and is none itself

import argparse
import importlib.metadata
import io
import itertools
import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from outpace.benchmarks.sweeps.programs import config_of, module_of, name_of, programs
from outpace.comm.errors import UserError

FIRST: Final = """\
Two programs on four workers, the last of them ten times slower, and what became of it:

    outpace run ad_psgd -n 4 --compute-time 0.005 --stragglers fixed:rank=3,factor=10 --out gossip.h5
    outpace run allreduce_sgd -n 4 --compute-time 0.005 --stragglers fixed:rank=3,factor=10 --out allreduce.h5
    outpace show gossip.h5
    outpace plot loss-time gossip.h5 allreduce.h5 -o loss.png

`outpace --help` lists the commands, `outpace run PROGRAM --help` the flags of a program."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: that of the job for `run` and `micro`; 1 for a broken trace; 2 for something to put right."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every encoding has the ² of D²
    if not arguments:
        print(FIRST)
        return 0
    parser = _parser()
    options = argparse.Namespace(command=None)
    try:
        options, rest = parser.parse_known_args(arguments, options)
        if options.command is run:
            options.flags = rest  # the program's own
        elif rest:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        return int(options.command(options))
    except UserError as error:
        print(f"outpace: {error}", file=sys.stderr)
        return 1 if options.command is show else 2
    except KeyboardInterrupt:  # nothing has been started that would have to be told of
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `outpace show ... | head`
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="outpace", description="Distributed SGD on machines whose workers do not run at one pace."
    )
    parser.add_argument("--version", action="version", version=f"outpace {importlib.metadata.version('outpace')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    one = commands.add_parser(
        "run",
        help="run one program under MPI",
        description="Find the launcher, print the command line, run it. Further flags are the program's own; "
        "`outpace run PROGRAM --help` lists them.",
        usage="outpace run PROGRAM -n RANKS [FLAGS OF THE PROGRAM]",
        allow_abbrev=False,
        add_help=False,
    )
    one.add_argument("-h", "--help", action=HelpOfProgram, nargs=0, help="show this message, or that of PROGRAM")
    one.add_argument("program", metavar="PROGRAM", help=f"one of: {', '.join(programs())}; or the .py file of your own")
    one.add_argument("-n", dest="workers", type=_positive, required=True, metavar="RANKS", help="number of ranks")
    _add_requeue(one)
    one.set_defaults(command=run)

    one = commands.add_parser(
        "sweep",
        help="run many points, here or under Slurm",
        description="Run what is missing of a sweep, here, one point after the other; the same command goes on where "
        "it was stopped.",
    )
    one.add_argument("file", type=Path, metavar="FILE", help="a TOML file, a manifest, or one of the presets by name")
    one.add_argument("-o", "--out", type=Path, metavar="FOLDER", help="folder for traces and logs; default the file's")
    does = one.add_mutually_exclusive_group()
    does.add_argument("--dry-run", action="store_true", help="print the points with ids and commands, as a manifest")
    does.add_argument("--slurm", action="store_true", help="submit to Slurm, one job array for each number of ranks")
    does.add_argument("--status", action="store_true", help="tell what is done, running, failed, missing, and why")
    does.add_argument(
        "--point", type=_positive, metavar="K", help="run the K-th point only, as a task of an array does"
    )
    one.add_argument("--retry-failed", action="store_true", help="run failed points again, too")
    _add_requeue(one)
    one.set_defaults(command=sweep)

    one = commands.add_parser("jobscripts", help="copy the job scripts and preset sweeps, to adapt them to a site")
    one.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder; `jobscripts` is where they are found")
    one.set_defaults(command=jobscripts)

    one = commands.add_parser(
        "show", help="what a trace holds", description="What traces hold; exit code 1 where one is broken."
    )
    one.add_argument("files", nargs="*", type=Path, metavar="FILE")
    one.add_argument(
        "--recover", type=Path, metavar="DIR", help="first turn the parts that killed runs left in DIR into traces"
    )
    one.set_defaults(command=show)

    one = commands.add_parser(
        "plot",
        help="draw one figure from traces",
        description="Draw one figure; without arguments list the figures.",
    )
    one.add_argument("figure", nargs="?", metavar="FIGURE")
    one.add_argument("files", nargs="*", type=Path, metavar="FILE")
    one.add_argument("-o", "--out", type=Path, help="file to write, .pdf, .png or .svg; default FIGURE.pdf")
    one.set_defaults(command=plot)

    one = commands.add_parser(
        "export",
        help="one table of many runs, for pandas and R",
        description="Write one row per run: flags, machine, results.",
    )
    one.add_argument("files", nargs="+", type=Path, metavar="FILE")
    form = one.add_mutually_exclusive_group(required=True)
    form.add_argument("--csv", type=Path, metavar="OUT")
    form.add_argument("--parquet", type=Path, metavar="OUT", help="needs pyarrow, the extra `parquet`")
    one.set_defaults(command=export)

    one = commands.add_parser("micro", help="micro-benchmarks of the primitives beside raw MPI, validated first")
    one.add_argument("name", help="gossip, record, step, sign or vote")
    one.add_argument(
        "-n",
        dest="workers",
        type=_positive,
        metavar="RANKS",
        help="number of ranks; the benchmark's own default",
    )
    one.add_argument("--backend", choices=("numpy", "cupy"), default="numpy", help="of sign and vote (default numpy)")
    one.add_argument(
        "--link", metavar="RATE", help="put every rank behind a link of this rate, such as 1gbit or 100mbit; needs root"
    )
    one.set_defaults(command=micro)

    one = commands.add_parser(
        "check",
        help="what a program of your own keeps of what every program must",
        description="Try a program on a few ranks against the contract of every program, and print what holds. "
        "Beside Config and run the file may define allowed(n), the numbers of ranks; cost(n, dim, degrees), the bytes "
        "that each rank sends per round, shape (n,); reference(shares, cfg, steps), the models of all workers after "
        "the steps, shape (n, dim); and the other fields of outpace.benchmarks.conformance.row.Row. Exit code 1 where "
        "something does not hold.",
    )
    one.add_argument("file", type=Path, metavar="FILE.py")
    one.add_argument(
        "-n", dest="sizes", type=_several, default=[1, 2, 3, 4], metavar="RANKS", help="such as 2,4; default 1,2,3,4"
    )
    one.add_argument(
        "--limit", type=_seconds, default=60.0, metavar="SECONDS", help="for one contract (default %(default)g)"
    )
    one.set_defaults(command=check)

    one = commands.add_parser("doctor", help="what works here: MPI, threads, GPU; messages between nodes")
    one.add_argument(
        "--nodes",
        nargs="?",
        const="",
        metavar="HOST,HOST",
        help="test messages between these hosts, or the nodes of this Slurm job, by one rank on each",
    )
    one.set_defaults(command=doctor)

    one = commands.add_parser("race", help="the main job: the three programs, with and without a slow worker")
    one.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("results/runs/race"),
        help="folder for traces and figures (default %(default)s)",
    )
    one.add_argument(
        "-n", dest="workers", type=_positive, default=4, metavar="RANKS", help="number of ranks (default 4)"
    )
    one.add_argument("--factor", type=float, default=10.0, help="how much slower the slow worker is (default 10)")
    one.add_argument("--epochs", type=float, default=15.0, help="passes over the data (default 15)")
    one.set_defaults(command=race)
    return parser


def _add_requeue(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requeue", action="store_true", help="after SIGUSR1 have Slurm requeue this job; for scripts")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a positive number")
    return number


def _several(text: str) -> list[int]:
    return [_positive(part) for part in text.split(",")]


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return seconds


class HelpOfProgram(argparse.Action):
    """`outpace run PROGRAM --help` lists the program's own flags."""

    def __call__(self, parser: argparse.ArgumentParser, options: argparse.Namespace, *_: Any) -> None:
        from outpace.benchmarks.running.plan import parse_flags

        if options.program:
            parse_flags(name_of(options.program), config_of(options.program), ["--help"])
        parser.print_help()
        parser.exit()


def run(options: argparse.Namespace) -> int:
    from outpace.benchmarks.machine import launcher
    from outpace.benchmarks.sweeps import slurm
    from outpace.benchmarks.trace.checkpoint import GOES_ON

    ended = launcher.launch(module_of(options.program), options.workers, options.flags)
    if explained := launcher.explain(ended, _folder(options.flags)):
        print(explained, file=sys.stderr)
    if options.requeue and ended.code == GOES_ON:
        slurm.requeue()
    return ended.code


def _folder(flags: Sequence[str]) -> Path:
    """Where the program's trace goes, by its --out flag."""
    for flag, value in itertools.zip_longest(flags, flags[1:], fillvalue=""):
        if flag.startswith("--out"):
            return Path(flag.partition("=")[2] or value).parent
    return Path()


def sweep(options: argparse.Namespace) -> int:
    from outpace.benchmarks.sweeps import runner
    from outpace.benchmarks.sweeps.description import load
    from outpace.benchmarks.sweeps.manifest import manifest

    described = load(options.file, options.out)
    if options.dry_run:
        print(manifest(described.points), end="")
        return 0
    if options.status:
        return runner.status(described)
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
    if not files:
        raise UserError("show needs a FILE, or --recover DIR")
    return inspection.show(files)


def plot(options: argparse.Namespace) -> int:
    from outpace.benchmarks import figures

    if not options.figure:
        print("\n".join(figures.describe()))
        return 0
    out = options.out or Path(f"{options.figure}.pdf")
    figures.draw(options.figure, options.files, out)
    print(f"wrote {out}")
    return 0


def export(options: argparse.Namespace) -> int:
    from outpace.benchmarks.trace.export import write_csv, write_parquet

    out = options.csv or options.parquet
    write = write_csv if options.csv else write_parquet
    print(f"wrote {write(options.files, out)} row(s) into {out}")
    return 0


def micro(options: argparse.Namespace) -> int:
    from outpace.benchmarks.machine import launcher, link
    from outpace.benchmarks.micro import RANKS

    if options.name not in RANKS:
        raise UserError(f"unknown micro-benchmark '{options.name}'; allowed: {', '.join(RANKS)}")
    ranks = options.workers or RANKS[options.name]
    inside = link.inside(options.link, ranks) if options.link else []
    return launcher.launch("outpace.benchmarks.micro", ranks, [options.name, options.backend], inside).code


def check(options: argparse.Namespace) -> int:
    from outpace.benchmarks.conformance.check import check as start

    return start(options.file, options.sizes, options.limit)


def doctor(options: argparse.Namespace) -> int:
    from outpace.benchmarks.machine import launcher

    module = "outpace.benchmarks.machine.doctor"
    if options.nodes is None:
        return launcher.launch(module, 2, []).code
    ranks, placement = launcher.one_a_node(options.nodes)
    return launcher.launch(module, ranks, ["--nodes"], placement=placement).code


def race(options: argparse.Namespace) -> int:
    from outpace.benchmarks.studies.race import race as start

    return start(options.out, options.workers, options.factor, options.epochs)


if __name__ == "__main__":
    sys.exit(main())
