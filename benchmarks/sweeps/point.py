"""One point of a sweep on disk: what has become of it, who may run it, and the run itself.

Beside the trace `<program>-<workers>-<id>.h5` stand its `.log`, which every attempt appends to; a `.failed` with the
reason where the last attempt failed, which keeps the point from being run until it is forgiven; and, while somebody
runs it, its `.lock`. There is no database: a point is done when its trace is whole.
"""

import fcntl
import os
import re
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from outpace.benchmarks.machine.guardian import PASSED_ON
from outpace.benchmarks.machine.launcher import Started, explain, handling, simulated
from outpace.benchmarks.sweeps.programs import module_of
from outpace.benchmarks.trace import checkpoint, lock
from outpace.benchmarks.trace.checkpoint import GOES_ON
from outpace.benchmarks.trace.files import whole
from outpace.benchmarks.trace.inspection import validate
from outpace.benchmarks.trace.lock import NoLocks
from outpace.benchmarks.trace.parts import leftovers, part_path
from outpace.benchmarks.trace.run import Run
from outpace.comm import inputs
from outpace.comm.errors import UserError

ENDED_EARLY: Final = {  # exit code -> the signal that the run met
    GOES_ON: signal.SIGUSR1,
    128 + signal.SIGTERM: signal.SIGTERM,
    128 + signal.SIGINT: signal.SIGINT,
    128 + signal.SIGHUP: signal.SIGHUP,
}
INTERRUPTS: Final = (signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL)  # what the first, second, third Ctrl-C is to a run
PROBED_S: Final = 2  # `standing` holds a lock for an instant to see whether it is free
EARLIER_LIFE_S: Final = 180  # a lost node's locks are let go by an NFS server after 90 s

# What became of a point.
DONE, DIVERGED, RUNNING, QUEUED = "done", "diverged", "running", "queued"
PARTIAL, FAILED, MISSING = "partial", "failed", "missing"
STATES: Final = (DONE, DIVERGED, RUNNING, QUEUED, PARTIAL, FAILED, MISSING)
RESUMES: Final = "goes on from its checkpoint"
FINISHED: Final = (DONE, DIVERGED)  # a run that diverged is a result: it would diverge again
STUCK: Final = (
    "no checkpoint was written in this turn, so the job is not requeued; give it a longer time limit, or a signal "
    "closer to it (--signal)"
)


@dataclass(frozen=True)
class Point:
    """One run of a sweep."""

    id: str  # the config_id of its trace
    program: str  # by name, or the path of its file
    ranks: int  # servers included
    flags: tuple[str, ...]  # all but --out
    target: Path  # its trace

    @property
    def processes(self) -> int:
        """How many processes run it: simulated ranks share one."""
        return 1 if simulated(self.flags) else self.ranks

    @property
    def command(self) -> list[str]:
        """The command line that makes the trace, and that goes on with it where a checkpoint was left."""
        return ["outpace", "run", self.program, "-n", str(self.ranks), *self.flags, "--out", str(self.target)]

    @property
    def label(self) -> str:
        return shlex.join([self.program, "-n", str(self.ranks), *self.flags])

    def beside(self, suffix: str) -> Path:
        """A file of this point beside its trace. Raises UserError where something else has its name: to open a pipe
        would wait for ever."""
        path = self.target.with_suffix(suffix)
        if (flaw := inputs.flaw(path)) not in (None, inputs.MISSING):
            raise UserError(f"{path}: {flaw}")
        return path


@dataclass(frozen=True)
class Standing:
    """What has become of a point, and the reason or the owner where there is one to tell."""

    state: str
    reason: str = ""
    generation: int = field(default=0, compare=False)  # of the checkpoint from which an unfinished point goes on
    wall_s: float = field(default=0.0, compare=False)  # of the timed part of a finished run

    def __str__(self) -> str:
        return f"{self.state}: {self.reason}" if self.reason else self.state


def standing(point: Point) -> Standing:
    """The point as its files tell."""
    owner = _owner(point)
    return _of_files(point) if owner is None else Standing(RUNNING, owner)


def _of_files(point: Point) -> Standing:
    found = _of_trace(point) if point.target.exists() else _of_parts(point)
    if found.state in FINISHED:
        return found
    try:
        reason = point.beside(".failed").read_text().strip()
    except FileNotFoundError:
        return found
    goes_on = f"; --retry-failed {RESUMES}" if found.generation else ""
    return Standing(FAILED, reason + goes_on, found.generation)


def forgive(point: Point) -> None:
    """Have the point run again although it failed."""
    point.beside(".failed").unlink(missing_ok=True)


def _of_parts(point: Point) -> Standing:
    # One look for each rank: a list of a folder of thousands of files, for each of as many points, would take minutes.
    if not any(part_path(point.target, rank).exists() for rank in range(point.ranks)):
        return Standing(MISSING)
    return _unfinished(point, "killed")


def _of_trace(point: Point) -> Standing:
    try:
        if reason := _foreign(point):
            return Standing(FAILED, reason)
        validate(point.target)
        attrs = Run(point.target).attrs
    except UserError as error:
        return Standing(FAILED, str(error), checkpoint.common(point.target, point.ranks))
    if attrs["status"] != "partial":
        return Standing(DIVERGED if attrs["status"] == "diverged" else DONE, wall_s=attrs["wall_s"])
    return _unfinished(point, "ended early")


def _foreign(point: Point) -> str:
    """Why the point's file is not its own; nothing where it is, or cannot be read."""
    try:
        held = Run(point.target).attrs.get("config_id")
    except UserError:
        return ""
    return "" if held == point.id else f"{point.target} holds the trace of another run, {held}; move it away"


def _unfinished(point: Point, how: str) -> Standing:
    generation = checkpoint.common(point.target, point.ranks)
    return Standing(PARTIAL, RESUMES if generation else f"{how} without a checkpoint; starts again", generation)


class Busy(Exception):
    """Somebody else runs the point; the text says who."""


@contextmanager
def claim(point: Point) -> Iterator[int]:
    """The right to run the point, as an open file: whoever inherits its descriptor keeps the point claimed.

    The lock is the kernel's, so it ends with the last process that holds it, however that ends. Raises Busy. A
    requeued job waits for its own earlier life: on a lost node that may still run, or its lock not be let go yet.
    """
    path = point.beside(".lock")
    start, job = time.monotonic(), os.environ.get("SLURM_JOB_ID")
    while (descriptor := _locked(path)) is None:
        owner = lock.owner(path)
        patience = EARLIER_LIFE_S if job and owner.endswith(f" job {job}") else PROBED_S
        if time.monotonic() > start + patience:
            raise Busy(f"{owner}; if that is gone for good, remove {path}")
        time.sleep(0.2)
    try:
        yield descriptor
    finally:
        lock.free(path, descriptor)


def _locked(path: Path) -> int | None:
    try:
        return lock.take(path)
    except NoLocks as error:
        raise UserError(f"{path}: its file system has no locks ({error.strerror}); a sweep needs them") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def _owner(point: Point) -> str | None:
    """Who holds the point's lock; None where nobody does."""
    path = point.beside(".lock")
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return lock.owner(path)
    finally:
        os.close(descriptor)
    return None


class Signals:
    """Inside `with`, SIGUSR1, SIGTERM, SIGHUP and Ctrl-C ask the running point for a checkpoint. Ctrl-C waits for it
    however long the steps are; a second one is a SIGTERM, which ends the job within seconds, and a third one kills it.

    `taken` is the first of them, or that which ended a run; `killed` tells of the third Ctrl-C.
    """

    def __init__(self) -> None:
        self.taken = 0
        self.killed = False
        self.running: Started | None = None
        self._interrupts = 0
        self._handling = handling(self._take, *PASSED_ON)

    def __enter__(self) -> "Signals":
        self._handling.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._handling.__exit__(None, None, None)

    def _take(self, number: int, _: object) -> None:
        self.taken = self.taken or number
        self._interrupts += number == signal.SIGINT
        if self.running:
            self.pass_on(number)

    def pass_on(self, number: int) -> None:
        assert self.running
        if number == signal.SIGINT:
            number = INTERRUPTS[min(self._interrupts, len(INTERRUPTS)) - 1]
        self.killed = number == signal.SIGKILL
        self.running.send(number)


def run(point: Point, signals: Signals, must_advance: bool = False) -> Standing:
    """Run the point, unless it is finished or has failed, and say what became of it. Raises Busy.

    With `must_advance` a run that SIGUSR1 ended without a new checkpoint has failed: the next would end like it.
    """
    with claim(point) as held:
        before, failed = _of_files(point), point.beside(".failed")
        # Whoever held the claim may have come to that; and a trace of another run is not ours to replace.
        if before.state in FINISHED or failed.exists() or _foreign(point):
            return before
        # What cannot be gone on with is run again; a trace is only replaced by a whole one.
        there = point.target.exists() or leftovers(point.target)
        flags = [*point.flags, "--out", str(point.target), *(["--overwrite"] if there else [])]
        with open(point.beside(".log"), "ab", buffering=0) as log:
            log.write(f"\n{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, {lock.myself()}, {before}\n".encode())
            start = log.tell()
            signals.running = Started(module_of(point.program), point.ranks, flags, log, [held])
            try:
                if signals.taken:  # it came while the launch was made
                    signals.pass_on(signals.taken)
                ended = signals.running.wait()
            finally:
                signals.running = None
        after = _of_files(point)
        if after.state in FINISHED:
            return after
        signals.taken = signals.taken or ENDED_EARLY.get(ended.code, 0)  # it may have been sent to the run alone
        if ended.code in ENDED_EARLY or signals.killed:
            advanced = after.generation > before.generation
            if advanced or not must_advance or signals.taken != signal.SIGUSR1:
                return after
            reason = STUCK
        elif after.state == FAILED:
            reason = after.reason
        else:
            said = explain(ended, point.target.parent) or _reason(point.beside(".log").read_bytes()[start:])
            reason = f"exit code {ended.code}: {said}"
        try:
            with whole(failed) as file:
                file.write(f"{reason}\n".encode())
        except OSError as error:
            reason += f"; {failed} cannot be written: {error.strerror}"
        return Standing(FAILED, reason)


def _reason(log: bytes) -> str:
    """The line of a log that says best why a run failed: the program's own, an exception's, else the last one."""
    lines = [line.strip() for line in log.decode(errors="replace").splitlines()[1:] if line.strip(" =|")]
    for pattern in (r"[a-z_0-9]+: ", r"([a-z_]+\.)*[A-Z]\w*(Error|Exception|Interrupt)\b"):
        told = [line for line in lines if re.match(pattern, line) and not re.match("(srun|slurmstepd|slurmd)", line)]
        if told:
            return told[-1]
    return lines[-1] if lines else "no output"
