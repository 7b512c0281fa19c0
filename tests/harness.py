"""Running one program inside a test, on any communicator, with its budget and its trace in memory."""

import tracemalloc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from mpi4py import MPI

from outpace.benchmarks import problems
from outpace.benchmarks.problems import Setting, Unshared
from outpace.benchmarks.running.pace import PacedProblem
from outpace.benchmarks.running.stragglers import Delays, parse
from outpace.benchmarks.trace import parts
from outpace.benchmarks.trace.recorder import Trace
from outpace.benchmarks.trace.snapshots import Snapshots
from outpace.comm import clock
from outpace.comm.arrays import to_host
from outpace.comm.budget import AgreedSteps, Budget, SharedTickets, Stop
from outpace.comm.layout import Layout
from outpace.comm.meter import MeteredComm

backend: Any = np  # the array module of `share`; tests set it


class CheckedComm(MeteredComm):
    """A communicator whose duplicates must hold no message when they are freed."""

    def Dup(self, info: MPI.Info | None = None) -> "CheckedComm":
        return CheckedComm(MPI.Intracomm(self).Dup(info), self.meter)

    def Free(self) -> None:
        assert not self.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG), "freed with a message left in it"
        super().Free()


@dataclass
class Outcome:
    """This rank's result of one run, on the host; `steps`, `events` and `applied` are records of a part's tables."""

    x: Any
    mean: np.ndarray  # the mean of the local models, or the servers' model
    steps: np.ndarray
    events: np.ndarray
    applied: np.ndarray
    sent: np.ndarray  # bytes to each rank
    wall_s: float
    pauses: int  # for a checkpoint
    peak: int  # bytes allocated at one time, where the recorder notes it
    models: list[np.ndarray]  # of every snapshot, where the recorder keeps them


def shares(text: str, n: int, dtype: str = "float64", split: str = "iid", seed: int = 0) -> list[Any]:
    """All workers' shares of a problem, in this process."""
    return problems.build(text, Setting(MPI.COMM_SELF, range(n), n, split, seed, dtype, np))


def share(
    comm: MPI.Intracomm, text: str, dtype: str = "float64", split: str = "iid", seed: int = 0, servers: int = 0
) -> Any:
    """This rank's share, or what a server knows of the problem; collective."""
    n = comm.size - servers
    setting = Setting(comm, [comm.rank] if comm.rank < n else [], n, split, seed, dtype, backend)
    mine = problems.build(text, setting)
    told = Unshared(comm, mine) if servers else None
    return mine[0] if mine else told


class Rounds:
    """A budget of the rounds that it is given, without a word to other ranks."""

    count, total = 0, None

    def __init__(self, rounds: Iterable[int]) -> None:
        self._rounds = rounds

    def __iter__(self) -> Iterator[int]:
        return iter(self._rounds)

    def keep(self, **things: Any) -> None:
        """Nothing goes on from here."""


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
    comm: MeteredComm,
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
    """Run `program` for `steps` gradients per worker on average; collective. Set-up as `benchmarks.program` does it.

    With `pause` it is ended for a checkpoint and goes on: a synchronous program after `agreement` steps, an
    asynchronous one every 20 ms.
    """
    cfg = program.Config(**{"dtype": "float64", **config})
    layout = Layout(comm.size - cfg.servers, cfg.servers)
    cfg.check(layout.workers)
    cfg.derive(problem)
    trace = recorder(comm, Snapshots(0, problem.dim, np.dtype(cfg.dtype), per_step=True))
    started = []

    def start() -> float:
        comm.Barrier()
        trace.start(clock.now(comm))
        comm.meter.reset()
        started.append(clock.now(comm))
        return started[0]

    budget: Budget
    if cfg.asynchronous:
        total = None if steps is None else steps * layout.workers
        budget = SharedTickets(comm, total, seconds, start, trace, layout, 0.02 if pause else None)
    else:
        budget = AgreedSteps(comm, steps, seconds, start, agreement, agreement)
        if pause:
            budget.stop(Stop.CHECKPOINT)
    paced = problem
    if comm.rank < layout.workers:
        delays = Delays(parse(stragglers), cfg.seed, comm.rank)
        paced = PacedProblem(problem, comm, trace, delays, compute_time, cfg.batch_size, lambda step: None)
    x = program.run(comm, paced, cfg, budget, trace)
    pauses = 0
    while comm.allreduce(budget.reason, MPI.MAX) == Stop.CHECKPOINT:
        pauses += 1
        budget.save()
        budget.go_on()
        x = program.run(comm, paced, cfg, budget, trace)
    x = to_host(x)
    wall_s = clock.now(comm) - started[0]
    comm.Barrier()
    assert not comm.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG), "a message is left in the communicator"
    sent = comm.meter.nbytes.copy()
    mean = np.zeros(problem.dim)
    part = layout.held(problem.dim).get(comm.rank)
    if part:
        mean[part] = x
    comm.Allreduce(MPI.IN_PLACE, mean)
    mean /= layout.models
    rows = {name: np.frombuffer(data, dtype=parts.TABLES[name]) for name, data in trace.drain().items()}
    noted = getattr(trace, "peak", 0), getattr(trace, "models", [])
    return Outcome(x, mean, rows["steps"], rows["events"], rows["applied"], sent, wall_s, pauses, *noted)
