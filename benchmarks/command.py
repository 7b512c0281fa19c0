"""The `outpace` command: run a program, look at its trace, draw figures, measure the primitives, check the machine."""

import mpi4py

mpi4py.rc.initialize = False  # this process launches MPI jobs and is none itself

import argparse
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

from outpace.comm.spec import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: that of the job for `run` and `micro`; 1 for a broken trace; 2 for something to put right."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.command is run:
        options.flags = rest  # the program's own
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return int(options.command(options))
    except UserError as error:
        print(f"outpace: {error}", file=sys.stderr)
        return 1 if options.command is show else 2
    except BrokenPipeError:  # `outpace show ... | head`
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="outpace", description="Distributed SGD on machines whose workers do not run at one pace."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    one = commands.add_parser(
        "run",
        help="run one program under MPI",
        description="Find the launcher, print the command line, run it. Further flags are the program's own; "
        "`python -m outpace.algorithms.PROGRAM --help` lists them.",
        usage="outpace run PROGRAM -n RANKS [FLAGS OF THE PROGRAM]",
        allow_abbrev=False,
    )
    one.add_argument("program", metavar="PROGRAM", help="one of: " + ", ".join(programs()))
    one.add_argument("-n", dest="workers", type=_positive, required=True, metavar="RANKS", help="number of ranks")
    one.set_defaults(command=run)

    one = commands.add_parser(
        "show", help="what a trace holds", description="What traces hold; exit code 1 where one is broken."
    )
    one.add_argument("files", nargs="*", type=Path, metavar="FILE")
    one.add_argument(
        "--recover",
        type=Path,
        metavar="DIR",
        help="first turn the parts that killed runs left in DIR into traces",
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

    one = commands.add_parser("doctor", help="what works here: MPI, threads, GPU")
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


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a positive number")
    return number


def programs() -> list[str]:
    """The programs, by name."""
    from outpace import algorithms

    return sorted(module.name for module in pkgutil.iter_modules(algorithms.__path__))


def run(options: argparse.Namespace) -> int:
    from outpace.benchmarks import launcher

    if options.program not in programs():
        raise UserError(f"unknown program '{options.program}'; allowed: {', '.join(programs())}")
    ended = launcher.launch(f"outpace.algorithms.{options.program}", options.workers, options.flags)
    if explained := launcher.explain(ended, _folder(options.flags)):
        print(explained, file=sys.stderr)
    return ended.code


def _folder(flags: Sequence[str]) -> Path:
    """Where the program's trace goes, by its --out flag."""
    for flag, value in zip(flags, [*flags[1:], ""], strict=True):
        if flag.startswith("--out"):
            return Path(flag.partition("=")[2] or value).parent
    return Path()


def show(options: argparse.Namespace) -> int:
    from outpace.benchmarks import inspection

    files = list(options.files)
    if options.recover:
        from mpi4py import MPI

        from outpace.benchmarks.archive import recover

        MPI.Init()
        files = recover(options.recover) + files
        for file in files[: len(files) - len(options.files)]:
            print(f"recovered {file}")
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


def micro(options: argparse.Namespace) -> int:
    from outpace.benchmarks import launcher, link
    from outpace.benchmarks.micro import RANKS

    if options.name not in RANKS:
        raise UserError(f"unknown micro-benchmark '{options.name}'; allowed: {', '.join(RANKS)}")
    ranks = options.workers or RANKS[options.name]
    inside = link.inside(options.link, ranks) if options.link else []
    return launcher.launch("outpace.benchmarks.micro", ranks, [options.name, options.backend], inside).code


def doctor(options: argparse.Namespace) -> int:
    from outpace.benchmarks import launcher

    return launcher.launch("outpace.benchmarks.doctor", 2, []).code


def race(options: argparse.Namespace) -> int:
    from outpace.benchmarks.race import race as start

    return start(options.out, options.workers, options.factor, options.epochs)


if __name__ == "__main__":
    sys.exit(main())
