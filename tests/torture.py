"""Random signals to random processes of whole jobs: python tests/torture.py [TRIES] [--seed SEED].

Each try starts a run, and at a random time, also of its timed part, sends one signal to a rank, a proxy, the launcher,
the guardian or `outpace run` itself. After it no process of the job may be left, the exit code must be the one of
docs/architecture.md, and every row that was in a part file before the signal must be in the trace, be it that of the
run or a recovered one. A stopped process is let go on after a while; the job must not have been lost, and ends at a
SIGTERM.

`make torture` runs 300 tries, on MPICH and, where there is .venv-openmpi, on Open MPI; with --links the ranks are
behind slow links. A seed repeats the draws; when a signal comes is a matter of the machine, too.
"""

import argparse
import os
import platform
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from outpace.benchmarks.machine.guardian import RANK_VARIABLES
from outpace.benchmarks.running.recovery import recover
from outpace.benchmarks.trace import lock
from outpace.benchmarks.trace.inspection import validate
from outpace.benchmarks.trace.parts import leftovers, read_part
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

ROOT = Path(__file__).parents[1]
LAUNCHERS = {"MPICH": Path(sys.executable).parent, "Open MPI": ROOT / ".venv-openmpi" / "bin"}
PROGRAMS = ("allreduce_sgd", "d_psgd", "ad_psgd")
TARGETS = ("outpace", "guardian", "mpiexec", "proxy", "rank")
NUMBERS = [signal.Signals[f"SIG{name}"] for name in ("TERM", "INT", "HUP", "USR1", "KILL", "STOP")]
FLAGS = ("--problem", "quadratic:dim=100,sigma=0.3", "--compute-time", "0.01", "--time-budget", "60")
LATEST_S = 3.0  # after the start, or the first rows
STOPPED_S = 2.0
GONE_S = 10.0  # from the end of `outpace run` to that of the last process
LIMIT_S = 60.0  # for a try
KERNEL_TELLS = [int(word) for word in re.findall(r"\d+", platform.release())[:2]] >= [6, 15]  # how a rank has ended


@dataclass(frozen=True)
class Try:
    mpi: str
    program: str
    ranks: int
    target: str
    number: signal.Signals
    after_s: float
    since: str  # the start of `outpace`, or the first rows of all ranks
    links: str = "none"

    def __str__(self) -> str:
        when = f"{self.number.name} to {self.target}, {self.after_s:.2f} s after the {self.since}"
        return f"{self.mpi}, {self.program} -n {self.ranks}, {when}"


@dataclass
class Outcome:
    code: int
    wrong: list[str] = field(default_factory=list)
    kept: str = "not begun"
    said: str = ""


def drawn(seed: int, mpis: Sequence[str], links: str = "none") -> Iterator[Try]:
    rng = random.Random(seed)
    while True:
        mpi = rng.choice(mpis)
        targets = [name for name in TARGETS if name != "proxy" or mpi == "MPICH"]
        yield Try(
            mpi,
            rng.choice(PROGRAMS),
            rng.choice((2, 4)),
            rng.choice(targets),
            rng.choice(NUMBERS),
            rng.uniform(0, LATEST_S),
            rng.choice(("start", "first rows")),
            links,
        )


class Marked:
    """The processes of one job, known by a variable of their environment."""

    def __init__(self) -> None:
        self.name, self.value = "OUTPACE_TORTURE", uuid.uuid4().hex

    def alive(self) -> dict[int, dict[str, str]]:
        """Process -> its environment."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                text = (folder / "environ").read_text(errors="replace")
                if f"{self.name}={self.value}" in text and _state(int(folder.name)) not in "ZX":
                    found[int(folder.name)] = dict(line.split("=", 1) for line in text.split("\0") if "=" in line)
        return found

    def find(self, target: str, outpace: int, rng: random.Random) -> int | None:
        if target == "outpace":
            return outpace
        every = self.alive()
        ranks = [pid for pid, known in every.items() if known.keys() & set(RANK_VARIABLES)]
        roles = {
            "guardian": lambda words: words[-2:-1] and words[-2].endswith("guardian.py"),
            "proxy": lambda words: words[0].endswith("hydra_pmi_proxy"),
            "mpiexec": lambda words: Path(words[0]).name in ("mpiexec", "mpirun", "prterun"),
        }
        if target in roles:
            ranks = [pid for pid in every if roles[target](_words(pid))]
        return rng.choice(ranks) if ranks else None


def _words(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").rstrip("\0").split("\0")
    return [""]


def _state(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "X"


def _until(true: Callable[[], object], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def attempt(one: Try, folder: Path) -> Outcome:
    marked, target = Marked(), folder / "run.h5"
    flags = [*FLAGS, "--links", one.links, "--out", str(target)]
    said = folder / "said"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [LAUNCHERS[one.mpi] / "outpace", "run", one.program, "-n", str(one.ranks), *flags],
            env=os.environ | {marked.name: marked.value},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=_heed_interrupts,
        )
    outcome, dropped = Outcome(0), False
    try:
        if one.since != "start" and not _until(lambda: len(flushed(target)) == one.ranks, LIMIT_S):
            outcome.wrong.append("no rows")
        time.sleep(one.after_s)
        rng, chosen = random.Random(one.after_s), list[int]()
        if not _until(lambda: chosen.append(marked.find(one.target, process.pid, rng) or 0) or chosen[-1], LIMIT_S):
            outcome.wrong.append(f"no {one.target} to be found")
            outcome.said = said.read_text(errors="replace")
            return outcome
        started = said.stat().st_size > 0
        before = flushed(target)
        os.kill(chosen[-1], one.number)
        if one.number == signal.SIGSTOP:
            time.sleep(STOPPED_S)
            if process.poll() is not None:
                outcome.wrong.append("the job was lost")
            os.kill(chosen[-1], signal.SIGCONT)
            process.terminate()
        elif not _until(lambda: process.poll() is not None, GONE_S):
            # Python drops a Ctrl-C that comes in a callback of an import, and says so.
            dropped = one.number == signal.SIGINT and b"Exception ignored" in said.read_bytes()
            if dropped or may_be_lost(one, before):
                process.terminate()
        if not _until(lambda: process.poll() is not None, LIMIT_S):
            outcome.wrong.append("it did not end")
            process.kill()
        code = process.wait()
        outcome.code = 128 - code if code < 0 else code
        outcome.said = said.read_text(errors="replace")
        if outcome.code not in expected(one, started, before) | ({128 + signal.SIGTERM} if dropped else set()):
            outcome.wrong.append(f"exit code {outcome.code}")
        # Python tells of a SIGINT in its own start, which `outpace` does not send.
        quiet = started and (one.number != signal.SIGINT or one.target == "outpace")
        if quiet and "Traceback" in outcome.said:
            outcome.wrong.append("a traceback")
        if not _until(lambda: not marked.alive(), GONE_S):
            outcome.wrong.append(f"left: {sorted(' '.join(_words(pid)[:4]) for pid in marked.alive())}")
    finally:
        for pid in marked.alive():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
    if not outcome.wrong:
        outcome.kept = lost(target, before, outcome.wrong)
    return outcome


def _heed_interrupts() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so do its children until they choose."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def may_be_lost(one: Try, before: dict[int, np.ndarray]) -> bool:
    """Whether the job may go on after a signal that went past `outpace` and its guardian.

    Launchers treat the ranks as they like, Hydra's proxy ignores some signals, and MPICH has a handler of its own for
    SIGUSR1 from the start of MPI to that of the program, which may crash."""
    return one.target in ("mpiexec", "proxy") or (one.target == "rank" and one.number == signal.SIGUSR1 and not before)


def expected(one: Try, started: bool, before: dict[int, np.ndarray]) -> set[int]:
    """The exit codes that the try may have."""
    number = signal.SIGTERM if one.number == signal.SIGSTOP else one.number
    codes = {os.EX_TEMPFAIL if number == signal.SIGUSR1 else 128 + number}
    if not started:  # `outpace` itself was still starting
        codes |= {128 + number} | ({1} if number == signal.SIGINT else set())  # 1 is Python's, in its own start
    if one.target == "rank" and not before and not KERNEL_TELLS:  # Hydra kills the others, and may tell of one of these
        codes.add(128 + signal.SIGKILL)
    if one.number != signal.SIGSTOP and may_be_lost(one, before):
        codes |= set(range(1, 256))
    return codes


def _unlocked(target: Path) -> bool:
    descriptor = lock.take(lock.of(target))
    if descriptor is None:
        return False
    lock.free(lock.of(target), descriptor)
    return True


def flushed(target: Path) -> dict[int, np.ndarray]:
    """The rows of every rank that its part file has now, for ranks that have begun."""
    found = {}
    for path in leftovers(target):
        if path.suffix.startswith(".part-"):
            with suppress(UserError):
                segment = read_part(path)[-1]
                found[segment.header["rank"]] = segment.table("steps")
    return found


def lost(target: Path, before: dict[int, np.ndarray], wrong: list[str]) -> str:
    """What became of these rows; what is missing of them is appended to `wrong`."""
    kept = "trace"
    try:
        if not target.exists():
            if not any(len(rows) for rows in before.values()):
                return "not begun"
            kept = "recovered"
            _until(lambda: _unlocked(target), GONE_S)  # a dying process loses its files after its memory
            list(recover(target.parent))
        validate(target)
    except UserError as error:
        wrong.append(str(error))
        return "lost"
    run = Run(target)
    ranks = run.column("steps", "rank")
    for rank, rows in before.items():
        for name in ("step", "compute_s"):
            after = run.column("steps", name)[ranks == rank]
            if not np.array_equal(after[: len(rows)], rows[name]):
                wrong.append(f"rank {rank}: {len(rows)} rows were written, and the trace has others: {name}")
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tries", type=int, nargs="?", default=300)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--mpi", choices=LAUNCHERS, help="default: all that are installed")
    parser.add_argument("--target", choices=TARGETS)
    parser.add_argument("--links", default="none", metavar="SPEC", help="of the ranks, as root; with --mpi MPICH")
    options = parser.parse_args(arguments)
    mpis = [options.mpi] if options.mpi else [name for name, at in LAUNCHERS.items() if (at / "outpace").exists()]
    print(f"{options.tries} tries on {' and '.join(mpis)}, seed {options.seed}", flush=True)
    counts: Counter[tuple[str, str, str]] = Counter()
    ends: dict[tuple[str, str, str], Counter[str]] = {}
    failed = 0
    draws = (one for one in drawn(options.seed, mpis, options.links) if options.target in (None, one.target))
    for number, one in zip(range(options.tries), draws, strict=False):
        with TemporaryDirectory() as folder:
            outcome = attempt(one, Path(folder))
        kind = one.mpi, one.target, one.number.name
        counts[kind] += 1
        ends.setdefault(kind, Counter())[f"{outcome.code} {outcome.kept}"] += 1
        print(f"{number}: {one}: {outcome.code} {'; '.join(outcome.wrong) or outcome.kept}", flush=True)
        if outcome.wrong:
            failed += 1
            print(outcome.said[-2000:])
    for kind in sorted(counts):
        each = ", ".join(f"{times} x {end}" for end, times in sorted(ends[kind].items()))
        print(f"{kind[0]:9}{kind[1]:9}{kind[2]:8} {counts[kind]:4}  {each}")
    print(f"{options.tries - failed} of {options.tries} tries are as they should be; seed {options.seed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
