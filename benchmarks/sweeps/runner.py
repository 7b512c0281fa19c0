"""Running a sweep here, one point after the other, and telling how it stands."""

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from tempfile import NamedTemporaryFile
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from outpace.benchmarks.sweeps import point as points
from outpace.benchmarks.sweeps import slurm
from outpace.benchmarks.sweeps.manifest import Sweep
from outpace.benchmarks.sweeps.point import (
    DONE,
    FAILED,
    FINISHED,
    MISSING,
    PARTIAL,
    QUEUED,
    RUNNING,
    STATES,
    Busy,
    Point,
    Standing,
)
from outpace.benchmarks.trace.checkpoint import GOES_ON
from outpace.comm.errors import UserError

COLOURS: Final = {"done": "green", "diverged": "yellow", "failed": "red", "partial": "yellow"}


def survey(sweep: Sweep) -> dict[Point, Standing]:
    """What has become of every point, those waiting in Slurm's queue included."""
    queued = slurm.queued(sweep.folder)
    found = {}
    for point in sweep.points:
        found[point] = points.standing(point)
        if found[point].state in (MISSING, PARTIAL, FAILED) and point.id in queued:
            before = f"; {found[point].reason}" if found[point].reason else ""
            found[point] = Standing(QUEUED, f"job {queued[point.id]}{before}")
    return found


def status(sweep: Sweep) -> int:
    """Print how the sweep stands: the counts, then every point that is neither done nor missing, with the reason."""
    found = survey(sweep)
    console = _console()
    console.print(f"{sweep.folder}: {_counts(found.values())}")
    for point, standing in found.items():
        if standing.state not in (DONE, MISSING):
            console.print(f"{standing.state:8} {point.id} {point.label}", style=COLOURS.get(standing.state))
            if standing.reason:
                console.print(f"         {standing.reason}")
            if standing.state == FAILED:
                console.print(f"         {point.beside('.log')}")
    return 0


def _console(stderr: bool = False) -> Console:
    """Prints paths, flags and reasons as they are, whatever markup or emoji they look like."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


def wanted(found: dict[Point, Standing], retry_failed: bool) -> list[Point]:
    """The points that are to be run: missing ones, partial ones, and on request those that failed."""
    states = (MISSING, PARTIAL, FAILED) if retry_failed else (MISSING, PARTIAL)
    return [point for point, standing in found.items() if standing.state in states]


def submit(sweep: Sweep, retry_failed: bool) -> int:
    """Submit to Slurm what is to be run and does not wait there already."""
    prepare(sweep)
    found = survey(sweep)
    chosen = wanted(found, retry_failed)
    print(f"{sweep.folder}: {_counts(found.values())}; {len(chosen)} to submit", flush=True)
    _forgive(found, chosen)
    return slurm.submit(sweep, chosen) if chosen else 0


def _forgive(found: dict[Point, Standing], chosen: Sequence[Point]) -> None:
    """Those of the chosen that were found failed may run; what fails from now on has failed for every runner."""
    for point in chosen:
        if found[point].state == FAILED:
            points.forgive(point)


def run_here(sweep: Sweep, retry_failed: bool, requeue: bool) -> int:
    """Run what is to be run, one point after the other.

    Exit codes: 0, 1 where a point failed, 128 + n or GOES_ON where signal n or SIGUSR1 ended it early; the same
    command then goes on. Inside a Slurm job SIGUSR1 also has the job requeued, if `requeue` and if this turn finished a
    point or brought one to a new checkpoint; else the exit code is 1.
    """
    prepare(sweep)
    found = survey(sweep)
    room = int(os.environ.get("SLURM_NTASKS", 0))
    chosen = wanted(found, retry_failed)
    todo = [point for point in chosen if not room or point.ranks <= room]
    report = Report(len(found), sum(standing.state in FINISHED for standing in found.values()), todo)
    report.say(f"{sweep.folder}: {_counts(found.values())}; {len(todo)} to run")
    if len(todo) < len(chosen):
        report.say(f"{len(chosen) - len(todo)} of them left out: they need more than the {room} tasks of this job")
    _forgive(found, todo)
    finished = 0
    with points.Signals() as signals, report:
        for point in todo:
            report.starts(point)
            try:
                found[point] = points.run(point, signals, must_advance=requeue and not finished)
            except Busy as busy:
                found[point] = Standing(RUNNING, str(busy))
            report.ended(point, found[point])
            finished += found[point].state in FINISHED
            if signals.taken:
                break
    report.say(f"{sweep.folder}: {_counts(found.values())}")
    if signals.taken:
        report.say(f"stopped by {signal.Signals(signals.taken).name}; the same command goes on")
        return _ended_early(signals.taken, requeue, advanced=finished > 0 or found[point].state == PARTIAL)
    if any(found[point].state == FAILED for point in todo):
        report.say("--status tells why points failed, --retry-failed runs them again")
        return 1
    return 0


def run_one(sweep: Sweep, number: int, retry_failed: bool, requeue: bool) -> int:
    """Run the point of this number, from 1 on, as one task of a job array does; exit codes as of `run_here`.

    A point that has failed meanwhile is not run unless `retry_failed`, but a requeued job runs what its own earlier
    life, on a node that was lost, may have left as failed.
    """
    if not 1 <= number <= len(sweep.points):
        raise UserError(f"--point is {number}; the sweep has the points 1 to {len(sweep.points)}")
    prepare(sweep)
    point = sweep.points[number - 1]
    print(f"{point.id} {point.label}", flush=True)
    if retry_failed or "SLURM_RESTART_COUNT" in os.environ:
        points.forgive(point)
    with points.Signals() as signals:
        try:
            standing = points.run(point, signals, must_advance=requeue)
        except Busy as busy:
            standing = Standing(RUNNING, f"elsewhere: {busy}")
    print(standing, flush=True)
    if standing.state == FAILED:
        return 1
    if signals.taken and standing.state not in FINISHED:
        return _ended_early(signals.taken, requeue, advanced=standing.state == PARTIAL)
    return 0


def _ended_early(number: int, requeue: bool, advanced: bool) -> int:
    """The exit code after this signal. SIGUSR1 comes before a time limit, so the job wants another turn, unless it has
    not `advanced` in this one: then it never would."""
    if number != signal.SIGUSR1:
        return 128 + number
    if requeue and not advanced:
        print("nothing was finished and no checkpoint written, so the job is not requeued", file=sys.stderr, flush=True)
        return 1
    if requeue:
        slurm.requeue()
    return GOES_ON


def prepare(sweep: Sweep) -> None:
    """Make the folder and see that it can be written. Raises UserError."""
    try:
        sweep.folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=sweep.folder, prefix=".probe-"):  # a name that no other node comes by
            pass
    except OSError as error:
        raise UserError(f"folder: {sweep.folder} cannot be written: {error.strerror}") from None


class Report:
    """Progress of a sweep: a bar on a terminal, above it a line for every point; only the lines elsewhere.

    The time left is that of the points to come: the mean of those that differ in the seed only, where some have run
    since, else the mean of all.
    """

    def __init__(self, total: int, finished: int, todo: Sequence[Point]) -> None:
        self._total, self._finished = total, finished
        self._todo = list(todo)
        self._durations: dict[tuple[object, ...], list[float]] = {}
        self._start = 0.0
        self._console = _console(stderr=True)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}")
        self._bar = Progress(
            *columns,
            console=self._console,
            auto_refresh=False,  # a thread would run beside the ranks
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(todo[0].program if todo else "", total=total, completed=finished, left="")

    def __enter__(self) -> "Report":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        self._console.print(text)

    def starts(self, point: Point) -> None:
        self._start = time.monotonic()
        self._bar.update(self._task, description=point.program, refresh=True)

    def ended(self, point: Point, standing: Standing) -> None:
        seconds = time.monotonic() - self._start
        self._todo.remove(point)
        if standing.state in FINISHED:
            self._finished += 1
            self._durations.setdefault(_kind(point), []).append(seconds)
        left = f", {_span(self._left())} left" if self._todo and self._durations else ""
        self._bar.update(self._task, completed=self._finished, left=left.strip(", "))
        text = f"{self._finished}/{self._total} {standing.state} in {seconds:.1f} s{left}: {point.label}"
        reason = f" ({standing.reason})" if standing.reason else ""
        self._console.print(text + reason, style=COLOURS.get(standing.state))

    def _left(self) -> float:
        everything = [seconds for same in self._durations.values() for seconds in same]
        return sum(_mean(self._durations.get(_kind(point), everything)) for point in self._todo)


def _kind(point: Point) -> tuple[object, ...]:
    """What repetitions of one another have in common."""
    flags = list(point.flags)
    if "--seed" in flags:
        at = flags.index("--seed")
        del flags[at : at + 2]
    return point.program, point.ranks, *flags


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _counts(standings: Iterable[Standing]) -> str:
    counts = Counter(standing.state for standing in standings)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
