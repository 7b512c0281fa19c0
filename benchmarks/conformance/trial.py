"""One program run on any communicator, with its budget and its trace in memory."""

import dataclasses
import tracemalloc
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from mpi4py import MPI

from outpace.benchmarks import problems
from outpace.benchmarks.conformance.verdict import hold
from outpace.benchmarks.problems import Setting, Unshared
from outpace.benchmarks.running.assembly import Assembly
from outpace.benchmarks.running.plan import Launch, make_plan
from outpace.benchmarks.trace import parts
from outpace.benchmarks.trace.recorder import Trace
from outpace.benchmarks.trace.snapshots import Snapshots
from outpace.comm import clock
from outpace.comm.arrays import to_host
from outpace.comm.budget import Stop
from outpace.comm.meter import Counting, Meter, MeteredComm


class Checked(Counting):
    """What a communicator adds that notes, and its duplicates with it, what messages are left when they are freed."""

    left: list[str]  # of this rank

    def Free(self) -> None:
        self.look("a communicator is freed with a message left in it")
        super().Free()

    def look(self, why: str) -> None:
        # Ranks free a communicator when they are done with it, not together: none may wait here for the others.
        if self.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG):
            self.left.append(why)


class CheckedComm(Checked, MeteredComm):
    def __new__(cls, comm: MPI.Intracomm, meter: Meter | None = None, left: list[str] | None = None) -> "CheckedComm":
        self: Any = super().__new__(cls, comm, meter)
        self.left = [] if left is None else left
        return self  # type: ignore[no-any-return]

    def Dup(self, info: MPI.Info | None = None) -> "CheckedComm":
        return CheckedComm(MPI.Intracomm(self).Dup(info), self.meter, self.left)

    def Split(self, color: int = 0, key: int = 0) -> "CheckedComm":
        return CheckedComm(MPI.Intracomm(MPI.Intracomm(self).Split(color, key)))


@dataclass
class Outcome:
    """This rank's result of one run, on the host; `steps` to `dropped` are records of a part's tables."""

    x: Any
    mean: np.ndarray  # the mean of the local models, or the servers' model
    steps: np.ndarray
    events: np.ndarray
    applied: np.ndarray
    dropped: np.ndarray
    sent: np.ndarray  # bytes to each rank
    wall_s: float
    pauses: int  # for a checkpoint
    peak: int  # bytes allocated at one time, where the recorder notes it
    models: list[np.ndarray]  # of every snapshot, where the recorder keeps them


def shares(text: str, n: int, dtype: str = "float64", split: str = "iid", seed: int = 0) -> list[Any]:
    """All workers' shares of a problem, in this process."""
    return problems.build(text, Setting(MPI.COMM_SELF, range(n), n, split, seed, dtype, np))


def share(
    comm: MPI.Intracomm,
    text: str,
    dtype: str = "float64",
    split: str = "iid",
    seed: int = 0,
    servers: int = 0,
    xp: ModuleType = np,
) -> Any:
    """This rank's share, or what a server knows of the problem; collective."""
    n = comm.size - servers
    setting = Setting(comm, [comm.rank] if comm.rank < n else [], n, split, seed, dtype, xp)
    mine = problems.build(text, setting)
    told = Unshared(comm, mine) if servers else None
    return mine[0] if mine else told


class Allocations(Trace):
    """A trace that notes the most memory allocated at one time, by all threads of this rank, after the first steps: in
    those a program may set up what it keeps. Stop tracemalloc afterwards."""

    WARM_UP = 6  # calls; a step makes one or two of them, on servers too
    calls = peak = 0

    def record(self, read_s: float = np.nan, local_writes: int = 0) -> None:
        super().record(read_s, local_writes)
        self._look()

    def snapshot(self, x: Any) -> None:
        super().snapshot(x)
        self._look()

    def _look(self) -> None:
        self.calls += 1
        if self.calls == self.WARM_UP:
            tracemalloc.start()
        elif self.calls > self.WARM_UP:
            _, self.peak = tracemalloc.get_traced_memory()


class Shown(Trace):
    """A trace that keeps every model it is shown."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.models: list[np.ndarray] = []

    def snapshot(self, x: Any) -> None:
        super().snapshot(x)
        self.models.append(to_host(x).copy())


class RandomStart:
    """A problem whose workers start at different points, to see what averaging alone does."""

    def __init__(self, problem: Any, rank: int) -> None:
        self._problem, self._rank = problem, rank

    def __getattr__(self, name: str) -> Any:
        return getattr(self._problem, name)

    def x0(self) -> Any:
        return self._problem.xp.asarray(np.random.default_rng([99, self._rank]).standard_normal(self._problem.dim))


def execute(
    comm: CheckedComm,
    program: ModuleType,
    problem: Any,
    steps: int | None,
    seconds: float | None = None,
    compute_time: float = 0.0,
    stragglers: str = "none",
    agreement: int = 8,
    pause: bool = False,
    recorder: type[Trace] = Trace,
    **config: Any,
) -> Outcome:
    """Run `program` for `steps` gradients per worker on average; collective. Pacing and start are those of any run.

    With `pause` it is ended for a checkpoint and goes on: a synchronous program after `agreement` steps, an
    asynchronous one every 20 ms.
    """
    cfg = program.Config(**{"dtype": "float64", **config})
    every_s = 0.02 if pause and cfg.asynchronous else None
    launch = Launch(time_budget=seconds, compute_time=compute_time, stragglers=stragglers, checkpoint_every=every_s)
    plan = make_plan(program.__name__.rpartition(".")[2], cfg, launch, comm.size)
    plan = dataclasses.replace(plan, period=agreement, hops=agreement)
    cfg.derive(problem)
    snapshots = Snapshots(0, problem.dim, np.dtype(cfg.dtype), per_step=True)
    assembly = Assembly(comm, plan, problem, snapshots, steps, recorder=recorder)
    budget, trace = assembly.budget, assembly.trace
    if pause and not cfg.asynchronous:
        budget.stop(Stop.CHECKPOINT)
    x, pauses = assembly.run(program.run), 0
    while comm.allreduce(budget.reason, MPI.MAX) == Stop.CHECKPOINT:
        pauses += 1
        budget.save()
        budget.go_on()
        x = assembly.run(program.run)
    x = to_host(x)
    wall_s = clock.now(comm) - trace.started_s
    comm.Barrier()
    comm.look("a message is left in the communicator")
    hold(comm, not comm.left, ", ".join(comm.left))
    sent = comm.meter.nbytes.copy()
    mean = np.zeros(problem.dim)
    part = plan.layout.held(problem.dim).get(comm.rank)
    if part:
        mean[part] = x
    comm.Allreduce(MPI.IN_PLACE, mean)
    mean /= plan.layout.models
    rows = {name: np.frombuffer(data, dtype=parts.TABLES[name]) for name, data in trace.drain().items()}
    noted = getattr(trace, "peak", 0), getattr(trace, "models", [])
    return Outcome(
        x, mean, rows["steps"], rows["events"], rows["applied"], rows["dropped"], sent, wall_s, pauses, *noted
    )
