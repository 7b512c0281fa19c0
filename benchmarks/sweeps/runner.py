"""Running a sweep here, one point after the other, and telling how it stands."""

import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from tempfile import NamedTemporaryFile
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from outpace.benchmarks.machine import slurm_job
from outpace.benchmarks.machine.launcher import behind, value_of
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

MOST_REASONS: Final = 5  # that a summary tells
COLOURS: Final = {"done": "green", "diverged": "yellow", "failed": "red", "partial": "yellow"}


def survey(sweep: Sweep) -> dict[Point, Standing]:
    """What has become of every point, those waiting in Slurm's queue included. Raises UserError where Slurm does not
    tell what waits."""
    return _found(sweep, slurm.queued(sweep.folder))


def _survey_anyway(sweep: Sweep) -> dict[Point, Standing]:
    """The same for who submits nothing: what waits is said to be not known."""
    try:
        return survey(sweep)
    except UserError as unknown:
        print(f"outpace: {unknown}", file=sys.stderr, flush=True)
        return _found(sweep, {})


def _found(sweep: Sweep, queued: dict[str, str]) -> dict[Point, Standing]:
    found = {}
    for point in sweep.points:
        found[point] = points.standing(point)
        if found[point].state in (MISSING, PARTIAL, FAILED) and point.id in queued:
            before = f"; {found[point].reason}" if found[point].reason else ""
            found[point] = Standing(QUEUED, f"job {queued[point.id]}{before}")
    return found


def status(sweep: Sweep, verbose: bool) -> int:
    """Print how the sweep stands: the counts, how long the rest may take, and the reasons of points that failed or
    ended early; if `verbose` every point that is neither done nor missing in place of the reasons."""
    found = _survey_anyway(sweep)
    console = _console()
    console.print(f"{sweep.folder}: {_counts(found.values())}")
    durations = Durations()
    for point, standing in found.items():
        if standing.state in FINISHED:
            durations.add(point, standing.wall_s)
    left = [point for point, standing in found.items() if standing.state not in (*FINISHED, FAILED)]
    if left and durations:
        console.print(f"about {_span(durations.of(left))} of runs left, one after the other, by those that are done")
    if verbose:
        _list(console, found)
        return 0
    reasons = Counter((each.state, each.reason) for each in found.values() if each.state in (FAILED, PARTIAL))
    for (state, reason), count in reasons.most_common(MOST_REASONS):
        console.print(f"{count} {state}: {reason}", style=COLOURS[state])
    if len(reasons) > MOST_REASONS:
        console.print(f"and others for {len(reasons) - MOST_REASONS} more reasons")
    if any(standing.state not in (DONE, MISSING) for standing in found.values()):
        console.print("--verbose lists the points")
    return 0


def _list(console: Console, found: dict[Point, Standing]) -> None:
    for point, standing in found.items():
        if standing.state not in (DONE, MISSING):
            console.print(f"{standing.state:8} {point.id} {point.label}", style=COLOURS.get(standing.state))
            if standing.reason:
                console.print(f"         {standing.reason}")
            if standing.state == FAILED:
                console.print(f"         {point.beside('.log')}")


def _console(stderr: bool = False) -> Console:
    """Prints paths, flags and reasons as they are, whatever markup or emoji they look like."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


def wanted(found: dict[Point, Standing], retry_failed: bool) -> list[Point]:
    """The points that are to be run: missing ones, partial ones, and on request those that failed."""
    states = (MISSING, PARTIAL, FAILED) if retry_failed else (MISSING, PARTIAL)
    return [point for point, standing in found.items() if standing.state in states]


def submit(sweep: Sweep, retry_failed: bool) -> int:
    """Submit to Slurm what is to be run and does not wait there already."""
    found = survey(sweep)
    chosen = wanted(found, retry_failed)
    _check_links(chosen)  # the jobs will be this user's, too
    prepare(sweep)
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
    slurm_job.check_allocation()
    found = _survey_anyway(sweep)
    room = slurm_job.room()
    chosen = wanted(found, retry_failed)
    todo = [point for point in chosen if not room or point.processes <= room]
    _check_links(todo)
    prepare(sweep)
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
    if any(standing.state in FINISHED for standing in found.values()):
        report.say(f"one page about all: outpace report {sweep.folder}/*.h5 -o {sweep.folder}/report.html")
    return 0


def run_one(sweep: Sweep, number: int, retry_failed: bool, requeue: bool) -> int:
    """Run the point of this number, from 1 on, as one task of a job array does; exit codes as of `run_here`.

    A point that has failed meanwhile is not run unless `retry_failed`, but a requeued job runs what its own earlier
    life, on a node that was lost, may have left as failed.
    """
    if not 1 <= number <= len(sweep.points):
        raise UserError(f"--point is {number}; the sweep has the points 1 to {len(sweep.points)}")
    slurm_job.check_allocation()
    point = sweep.points[number - 1]
    _check_links([point])
    prepare(sweep)
    print(f"{point.id} {point.label}", flush=True)
    if retry_failed or slurm_job.of_job("SLURM_RESTART_COUNT"):
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
        slurm_job.requeue()
    return GOES_ON


def _check_links(todo: Iterable[Point]) -> None:
    """Raise UserError unless this machine can set up the links of all the points."""
    kinds = {(value_of("--links", point.flags), point.ranks): point for point in todo}
    for point in kinds.values():
        behind(point.flags, point.ranks)


def prepare(sweep: Sweep) -> None:
    """Make the folder and see that it can be written. Raises UserError."""
    try:
        sweep.folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=sweep.folder, prefix=".probe-"):  # a name that no other node comes by
            pass
    except OSError as error:
        raise UserError(f"folder: {sweep.folder} cannot be written: {error.strerror}") from None


class Report:
    """Progress of a sweep: a bar on a terminal, above it a line for every point; only the lines elsewhere."""

    def __init__(self, total: int, finished: int, todo: Sequence[Point]) -> None:
        self._total, self._finished = total, finished
        self._todo = list(todo)
        self._durations = Durations()  # of points that have run since
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
            self._durations.add(point, seconds)
        left = f", {_span(self._durations.of(self._todo))} left" if self._todo and self._durations else ""
        self._bar.update(self._task, completed=self._finished, left=left.strip(", "))
        text = f"{self._finished}/{self._total} {standing.state} in {seconds:.1f} s{left}: {point.label}"
        reason = f" ({standing.reason})" if standing.reason else ""
        self._console.print(text + reason, style=COLOURS.get(standing.state))


class Durations:
    """How long points have taken, and what others may take by that: the mean of those that differ in the seed only,
    else of those of the same program, else of all."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[object, ...], list[float]] = {}

    def __bool__(self) -> bool:
        return bool(self._seconds)

    def add(self, point: Point, seconds: float) -> None:
        for kind in _kinds(point):
            self._seconds.setdefault(kind, []).append(seconds)

    def of(self, todo: Iterable[Point]) -> float:
        """Seconds of all these, one after the other; needs one that has been added."""
        total = 0.0
        for point in todo:
            known = next(self._seconds[kind] for kind in _kinds(point) if kind in self._seconds)
            total += sum(known) / len(known)
        return total


def _kinds(point: Point) -> list[tuple[object, ...]]:
    """What a point has in common with others, the closest first."""
    flags = [flag for flag in point.flags if not flag.startswith("--seed=")]
    return [(point.program, point.ranks, *flags), (point.program,), ()]


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _counts(standings: Iterable[Standing]) -> str:
    counts = Counter(standing.state for standing in standings)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
