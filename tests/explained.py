"""How often `outpace explain` is right, on runs whose culprit is known: `python tests/explained.py FOLDER [RUNS]`.

Of each kind a run for each seed, until there are so many (60): a slow rank, delays of all ranks, one slow link, a slow
server, and nobody; 4 and 8 workers; synchronous programs and asynchronous ones. Prints a line for each run, the hits
and the false alarms, and for each slow rank the what-if 'without its delay' beside a run without one. Links want root,
and are left out elsewhere. What is in the folder already is not run again.
"""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import rooms

from outpace.benchmarks.explaining import Explanation, explain
from outpace.benchmarks.machine import launcher, namespaces
from outpace.benchmarks.sweeps.programs import module_of
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

COMPUTE = ("--compute-time", "0.1", "--evaluations", "1")
SERVING = "                descend_and_answer(gamma(k[0])"  # of a_psgd's server, which is here made slow before it
SLOW_LINK = "rate=2mbit,others=1gbit"  # 80 ms for a model of 19 kB

Blame = tuple[int | None, str]


@dataclass(frozen=True)
class Case:
    """One run with the blame that it deserves; None: nobody's."""

    kind: str
    program: str
    workers: int
    seed: int
    flags: tuple[str, ...]
    blame: Blame | None

    @property
    def name(self) -> str:
        return f"{self.kind}-{Path(self.program).stem}-{self.workers}-{self.seed}"


def cases(slow_server: Path, links: bool) -> Iterator[Case]:
    """Without end, the seeds in turn."""
    for seed in itertools.count():
        for n, program in itertools.product((4, 8), ("allreduce_sgd", "d_psgd", "ad_psgd", "a_psgd")):
            slow = (1 + seed) % n
            delay = f"fixed:rank={slow},factor=3"  # +200 ms
            yield Case("equal", program, n, seed, (), None)
            yield Case("fixed", program, n, seed, ("--stragglers", delay), (slow, "compute"))
            yield Case("random", program, n, seed, ("--stragglers", "random:p=0.1,factor=6"), (None, "compute"))
            yield Case("lognormal", program, n, seed, ("--stragglers", "lognormal:sigma=1"), (None, "compute"))
            if links:
                flags = ("--links", f"fixed:rank={slow},{SLOW_LINK}")
                yield Case("link", program, n, seed, flags, (slow, "link"))
            if program == "a_psgd":
                yield Case("server", str(slow_server), n, seed, (), (n, "server"))
                if links:
                    flags = ("--links", f"fixed:rank={n},{SLOW_LINK}")
                    yield Case("server-link", program, n, seed, flags, (n, "link"))


def run(case: Case, folder: Path) -> Path:
    """The trace of a run, made unless it is there. Raises SystemExit where the run fails."""
    out = folder / f"{case.name}.h5"
    if not out.exists():
        ranks = case.workers + (case.blame == (case.workers, "server") or case.program == "a_psgd")
        flags = [*COMPUTE, "--seed", str(case.seed), "--epochs", str(case.workers // 4), *case.flags, "--out", str(out)]
        ended = launcher.launch(module_of(case.program), ranks, flags)
        if ended.code:
            sys.exit(f"{case.name}: exit code {ended.code}")
    return out


def right(case: Case, explained: Explanation) -> bool:
    found = [(culprit.rank, culprit.cause) for culprit in explained.culprits]
    return found == ([case.blame] if case.blame else [])


def per_gradient_s(run: Run) -> float:
    return float(run.attrs["wall_s"]) / len(run.column("steps", "t_s"))


def main() -> None:
    folder, wanted = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 60
    folder.mkdir(parents=True, exist_ok=True)
    slow_server = folder / "slow_server.py"
    source = (rooms.ROOT / "algorithms" / "a_psgd.py").read_text()
    if source.count(SERVING) != 1:
        raise RuntimeError("the server of a_psgd has another line for its update")
    slowed = source.replace(SERVING, f"                sleep(comm, 0.05)\n{SERVING}")
    slow_server.write_text(slowed.replace("\nfrom ", "\nfrom outpace.comm.clock import sleep\nfrom ", 1))
    try:
        namespaces.inside("all:rate=1gbit", 1)
        links = True
    except UserError as error:
        links = False
        print(f"without links: {error}")
    told: dict[bool, list[bool]] = {True: [], False: []}
    errors = []
    for case in itertools.islice(cases(slow_server, links), wanted):
        explained = explain(run(case, folder))
        told[case.blame is not None].append(right(case, explained))
        found = ", ".join(f"{culprit.rank} {culprit.cause} {culprit.share:.2f}" for culprit in explained.culprits)
        print(f"{'right' if right(case, explained) else 'WRONG'}  {case.name}: {found or 'nobody'}", flush=True)
        if case.kind == "fixed":
            equal = Run(run(Case("equal", case.program, case.workers, case.seed, (), None), folder))
            for if_ in explained.what_if:
                if if_.rank == (case.blame or (None,))[0]:
                    ratio = per_gradient_s(explained.run) / if_.speed_up / per_gradient_s(equal)
                    errors.append(abs(ratio - 1))
                    print(f"       without the delay {ratio:.3f} times the time of a run without it", flush=True)
    hits, quiet = told[True], told[False]
    print(f"\nright {sum(hits)} of {len(hits)} with a culprit; false alarms {len(quiet) - sum(quiet)} of {len(quiet)}")
    within = sum(error <= 0.1 for error in errors)
    print(f"what-if within 10 % in {within} of {len(errors)}, at most {max(errors, default=0):.3f} off")


if __name__ == "__main__":
    main()
