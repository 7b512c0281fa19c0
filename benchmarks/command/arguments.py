"""The words of the `outpace` command: its commands, their options, and what `--help` says of them."""

import argparse
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from outpace.benchmarks.machine.links import LINKS
from outpace.benchmarks.machine.version import VERSION
from outpace.benchmarks.sweeps.programs import config_of, name_of, programs
from outpace.comm import spec

MOST: Final = 1_000_000  # ranks, or points of a sweep
LARGEST: Final = 1_000_000_000  # numbers of a model


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog="outpace", description="Distributed SGD on machines whose workers do not run at one pace."
    )
    command.add_argument("--version", action="version", version=f"outpace {VERSION}")
    completion = "print a completion script for this shell, such as bash or zsh"
    command.add_argument("--print-completion", action=Completion, metavar="SHELL", help=completion)
    commands = command.add_subparsers(title="commands", required=True, metavar="COMMAND")

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
    one.set_defaults(command="run")

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
    one.add_argument("-v", "--verbose", action="store_true", help="with --status: list the points")
    one.add_argument("--retry-failed", action="store_true", help="run failed points again, too")
    _add_requeue(one)
    one.set_defaults(command="sweep")

    one = commands.add_parser("jobscripts", help="copy the job scripts and preset sweeps, to adapt them to a site")
    one.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder; `jobscripts` is where they are found")
    one.set_defaults(command="jobscripts")

    one = commands.add_parser(
        "show", help="what a trace holds", description="What traces hold; exit code 1 where one is broken."
    )
    one.add_argument("files", nargs="*", type=Path, metavar="FILE")
    one.add_argument(
        "--recover", type=Path, metavar="DIR", help="first turn the parts that killed runs left in DIR into traces"
    )
    one.add_argument(
        "--export-model",
        type=Path,
        metavar="FILE",
        help="write the network that this run of --problem torch ended with as a state dict into OUT",
    )
    one.add_argument("-o", "--out", type=Path, metavar="OUT", help="of --export-model, such as model.pt")
    one.set_defaults(command="show")

    one = commands.add_parser(
        "explain",
        help="why a run took its time, who is to blame, and what would help",
        description="From one trace: where each rank's time went, the critical path of a synchronous program, "
        "staleness and exchanges of an asynchronous one, links and servers, who is to blame, and what the run "
        "would have taken otherwise.",
    )
    one.add_argument("file", type=Path, metavar="RUN.h5")
    one.add_argument("--json", action="store_true", help="print it as JSON, for programs")
    one.set_defaults(command="explain")

    one = commands.add_parser(
        "plot",
        help="draw one figure from traces",
        description="Draw one figure; without arguments list the figures.",
    )
    one.add_argument("figure", nargs="?", metavar="FIGURE")
    one.add_argument("files", nargs="*", type=Path, metavar="FILE")
    one.add_argument("-o", "--out", type=Path, help="file to write, .pdf, .png or .svg; default FIGURE.pdf")
    one.add_argument("--format", choices=("pdf", "png", "svg"), help="of the file, whatever its suffix")
    one.add_argument("--width", type=float, metavar="INCHES", help="such as 3.3, a column; text stays as large")
    one.add_argument(
        "--legend", choices=("outside", "inside", "none"), default="outside", help="where it stands (default outside)"
    )
    one.add_argument("--data", type=Path, metavar="FILE.csv", help="write the numbers that are drawn, too")
    _add_where(one)
    one.add_argument(
        "--group-by", default="", metavar="NAME", help="a curve for each value of this attribute or flag, too"
    )
    _add_loss(one, "of the figures heterogeneity and bandwidth")
    one.set_defaults(command="plot")

    one = commands.add_parser(
        "report",
        help="one page about some runs, to send and to keep",
        description="Write one HTML page with everything in it: what ran where, the figures that these traces allow, "
        "and who was slow, and why.",
    )
    one.add_argument("files", nargs="+", type=Path, metavar="FILE")
    one.add_argument("-o", "--out", type=Path, default=Path("report.html"), help="file to write (default %(default)s)")
    _add_where(one)
    one.set_defaults(command="report")

    one = commands.add_parser(
        "export",
        help="one table of many runs, for pandas and R; a run as a timeline, for Perfetto and Vampir",
        description="Write one row per run: flags, machine, results. Or one run as a timeline.",
    )
    one.add_argument("files", nargs="+", type=Path, metavar="FILE")
    _add_where(one)
    _add_loss(one, "of the column time_to_loss_s")
    form = one.add_mutually_exclusive_group(required=True)
    form.add_argument("--csv", type=Path, metavar="OUT")
    form.add_argument("--parquet", type=Path, metavar="OUT", help="needs pyarrow, the extra `parquet`")
    form.add_argument(
        "--perfetto",
        action="store_true",
        help="write the timeline of one run to -o, for ui.perfetto.dev; needs the extra `perfetto`",
    )
    form.add_argument(
        "--otf2",
        type=Path,
        metavar="DIR",
        help="write the timeline of one run as a new archive; needs the extra `otf2`",
    )
    one.add_argument("-o", "--out", type=Path, metavar="OUT", help="of --perfetto, such as run.pftrace")
    one.set_defaults(command="export")

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
        "--dim",
        type=lambda text: _positive(text, LARGEST),
        default=0,
        metavar="DIM",
        help="of step: on models of so many numbers, beside the same steps by hand",
    )
    _add_links(one)
    one.add_argument(
        "--json", type=Path, metavar="OUT.json", help="keep medians with their intervals, to compare later"
    )
    one.add_argument("--compare", type=Path, metavar="OLD.json", help="show what --json kept earlier beside it")
    one.set_defaults(command="micro")

    one = commands.add_parser(
        "calibrate",
        help="measure a machine for --simulate, on four ranks",
        description="Measure what the simulation must know of this machine: time per byte and latency of each pattern "
        "of messages, CPU time of a message, of a pass over a vector and of gradients. Needs the extra `simulate`.",
    )
    one.add_argument("-o", "--out", type=Path, required=True, metavar="MACHINE.toml", help="file to write")
    one.add_argument(
        "--problem", action="append", metavar="SPEC", help="whose gradients are timed; may be repeated; default digits"
    )
    _add_links(one)
    one.set_defaults(command="calibrate")

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
    one.set_defaults(command="check")

    one = commands.add_parser(
        "claims",
        help="what papers claim, tested here, with verdicts",
        description="Print the thresholds of the claims, run the experiments that are missing, print the verdicts and "
        "write DIR/report.html, report.md and claims.json. The same command goes on where it was stopped.",
    )
    one.add_argument("ids", nargs="*", metavar="ID", help="default all")
    one.add_argument("--list", action="store_true", help="print the claims and their thresholds only")
    one.add_argument("--quick", action="store_true", help="less of everything, with wider intervals: three minutes")
    one.add_argument(
        "--workers", type=_positive, metavar="N", help="so many, where an experiment leaves their number open"
    )
    one.add_argument("--slurm", action="store_true", help="submit what is missing to Slurm, judge what is there")
    one.add_argument(
        "-o", "--out", type=Path, metavar="DIR", default=Path("results/claims"), help="default %(default)s"
    )
    one.add_argument("--retry-failed", action="store_true", help="run failed experiments again, too")
    one.add_argument("--retry-busy", action="store_true", help="time again what was timed on a busy machine")
    one.set_defaults(command="claims")

    one = commands.add_parser("doctor", help="what works here: MPI, threads, GPU; messages between nodes")
    one.add_argument(
        "--nodes",
        nargs="?",
        const="",
        metavar="HOST,HOST",
        help="test messages between these hosts, or the nodes of this Slurm job, by one rank on each",
    )
    one.set_defaults(command="doctor")

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
    _add_links(one)
    one.set_defaults(command="race")
    return command


def _add_requeue(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requeue", action="store_true", help="after SIGUSR1 have Slurm requeue this job; for scripts")


def _add_where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the traces only those with this attribute or flag, such as workers=8; may be repeated: all names must "
        "hold, of each one value",
    )


def _add_links(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--links",
        default="none",
        metavar="SPEC",
        help=f"put the ranks behind slow links, as root: {'; '.join(spec.forms(LINKS))} (default %(default)s)",
    )


def _add_loss(parser: argparse.ArgumentParser, whose: str) -> None:
    parser.add_argument(
        "--loss", type=_finite, metavar="TARGET", help=f"the loss {whose}; default one that nine of ten runs reach"
    )


def _positive(text: str, most: int = MOST) -> int:
    number = spec.plain_number(text) or 0
    if not 1 <= number <= most:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to {most}")
    return number


def _several(text: str) -> list[int]:
    return [_positive(part) for part in text.split(",")]


def _finite(text: str) -> float:
    with suppress(ValueError):
        if math.isfinite(number := float(text)):
            return number
    raise argparse.ArgumentTypeError(f"{text} is not a finite number")


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < (seconds := float(text)) < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"{text} is not a positive number")


class Completion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, _: argparse.Namespace, shell: Any, *__: Any) -> None:
        import shtab  # slow

        if shell not in shtab.SUPPORTED_SHELLS:
            parser.error(f"--print-completion: unknown shell '{shell}'; allowed: {', '.join(shtab.SUPPORTED_SHELLS)}")
        choices: list[Any] = [action.choices for action in parser._actions]  # argparse has no public list of them
        for each in (each for commands in choices if isinstance(commands, dict) for each in commands.values()):
            for action in each._actions:
                if action.type is Path:
                    action.complete = shtab.FILE
        print(shtab.complete(parser, shell))
        parser.exit()


class HelpOfProgram(argparse.Action):
    """`outpace run PROGRAM --help` lists the program's own flags."""

    def __call__(self, parser: argparse.ArgumentParser, options: argparse.Namespace, *_: Any) -> None:
        from outpace.benchmarks.running.plan import parse_flags

        if options.program:
            parse_flags(name_of(options.program), config_of(options.program), ["--help"])
        parser.print_help()
        parser.exit()
