"""`outpace micro NAME`: the primitives beside raw MPI, interleaved in one job, validated before a number is printed.

gossip   one pairwise averaging of AD-PSGD against a bare Sendrecv of the same size
record   what recording costs per step
step     what a step of each program costs beyond its gradient and its messages
"""

import functools
import importlib
import statistics
import sys
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from mpi4py import MPI
from rich.console import Console
from rich.table import Table

from outpace.benchmarks import provenance
from outpace.benchmarks.traces import Snapshots, Trace
from outpace.comm import clock, threads
from outpace.comm.budget import AgreedSteps, SharedTickets
from outpace.comm.gossip import SharedModel
from outpace.comm.meter import MeteredComm

RANKS: Final = {"gossip": 2, "record": 1, "step": 1}
ROUNDS: Final = 15  # interleaved repetitions; the median is given, with the quartiles


def gossip(comm: MeteredComm) -> Table:
    """Rank 1 asks, rank 0 answers, by the very functions of AD-PSGD, against one blocking Sendrecv of the same size,
    alone and with the plainest NumPy average around it."""
    if comm.size != 2:
        raise ValueError(f"gossip is measured between 2 ranks, not {comm.size}")
    names = ("KiB", "Sendrecv us", "Sendrecv + average us", "exchange us")
    table = _table(comm, "gossip exchange, float32", (*names, "rate / Sendrecv", "rate / Sendrecv + average"))
    for kib in (4, 64, 256, 1024, 4096, 16384):
        count = max(4, min(400, 65536 // kib))
        x = np.random.default_rng([7, comm.rank]).standard_normal(kib * 256, dtype=np.float32)
        _validate_exchange(comm, x)
        variants = [_sendrecv, _sendrecv_and_average, _exchanges]
        samples = _interleaved(comm, *(functools.partial(variant, comm, x, count) for variant in variants))
        medians = [f"{1e6 * statistics.median(times) / count:.1f}" for times in samples]
        table.add_row(f"{kib}", *medians, _ratio(samples[0], samples[2]), _ratio(samples[1], samples[2]))
    return table


def _sendrecv(comm: MeteredComm, x: np.ndarray, count: int) -> None:
    r, peer = np.empty_like(x), 1 - comm.rank
    for _ in range(count):
        MPI.Intracomm.Sendrecv(comm, x, peer, 1, r, peer, 1)


def _sendrecv_and_average(comm: MeteredComm, x: np.ndarray, count: int) -> None:
    x, s, r, peer = x.copy(), np.empty_like(x), np.empty_like(x), 1 - comm.rank
    for _ in range(count):
        np.copyto(s, x)
        MPI.Intracomm.Sendrecv(comm, s, peer, 1, r, peer, 1)
        r -= s
        r *= 0.5
        x += r


def _exchanges(comm: MeteredComm, x: np.ndarray, count: int) -> np.ndarray:
    """`count` averagings by the communication side of AD-PSGD; the model afterwards."""
    program, model, trace = _ad_psgd(comm, x)
    due = threads.channel(comm)
    for k in [*range(count), None]:
        due.put(k)
    side = program.ask if comm.rank == 1 else program.answer
    side(comm, [1 - comm.rank], model, due, 0, trace)
    return model.x  # type: ignore[no-any-return]


def _ad_psgd(comm: MeteredComm, x: np.ndarray) -> tuple[Any, Any, Trace]:
    trace = Trace(comm, Snapshots(0, len(x), x.dtype, per_step=True))
    return importlib.import_module("outpace.algorithms.ad_psgd"), SharedModel(comm, x.copy(), trace), trace


def _validate_exchange(comm: MeteredComm, x: np.ndarray) -> None:
    """One exchange leaves the mean on both ranks."""
    other = np.empty_like(x)
    comm.Sendrecv(x, 1 - comm.rank, 2, other, 1 - comm.rank, 2)
    if not np.allclose(_exchanges(comm, x, 1), (x + other) / 2, rtol=0, atol=1e-6):
        raise RuntimeError(f"rank {comm.rank}: an exchange did not leave the average")


def record(comm: MeteredComm) -> Table:
    """Everything that a step records: its gradient and its exchange as events, its row, and the snapshot's clock."""
    table = _table(comm, "recording", ("calls", "us per step", "target us"))
    x = np.zeros(1000)

    def once(steps: int = 20_000) -> Trace:
        trace = Trace(comm, Snapshots(0, len(x), x.dtype, per_step=True))
        trace.start(clock.now(comm))
        for _ in range(steps):
            trace.computed(0.0, 1.0, 2.0, 16)
            with trace.phase("exchange", 1, x.nbytes):
                pass
            trace.snapshot(x)
            trace.record(0.5, 1)
        return trace

    trace = once(10)
    rows, events = trace.drain()
    if (len(rows), len(events)) != (10 * 64, 30 * 48):
        raise RuntimeError("recording lost rows")
    (times,) = _interleaved(comm, once)
    table.add_row("20000", f"{1e6 * statistics.median(times) / 20_000:.2f}", "10")
    return table


def step(comm: MeteredComm) -> Table:
    """A whole step of each program on one rank with a gradient that costs nothing: the suite's own overhead."""
    table = _table(comm, "step overhead, no gradient, dim 1000", ("program", "us per step"))

    class Free:
        xp, dim, n_samples = np, 1000, 1000

        def x0(self) -> np.ndarray:
            return np.zeros(self.dim, dtype=np.float32)

        def gradient(self, x: np.ndarray, batch: np.ndarray, out: np.ndarray) -> None:
            out[:] = 0

    def begin() -> float:
        return clock.now(comm)

    def run(name: str, steps: int = 5000) -> None:
        program: Any = importlib.import_module(f"outpace.algorithms.{name}")
        trace = Trace(comm, Snapshots(0, 1000, np.dtype("f4"), per_step=True))
        trace.start(clock.now(comm))
        config = program.Config()
        shared = getattr(config, "asynchronous", False)
        budget = SharedTickets(comm, steps, None, begin, trace) if shared else AgreedSteps(comm, steps, None, begin, 4)
        program.run(comm, Free(), config, budget, trace)
        if trace.steps != steps:
            raise RuntimeError(f"{name} made {trace.steps} steps of {steps}")

    for name in ("allreduce_sgd", "d_psgd", "ad_psgd"):
        (times,) = _interleaved(comm, lambda: run(name))  # noqa: B023
        table.add_row(name, f"{1e6 * statistics.median(times) / 5000:.1f}")
    return table


def _interleaved(comm: MeteredComm, *functions: Callable[[], Any]) -> list[list[float]]:
    """Seconds of each function, ROUNDS of them taken in turns after a warm-up: rank 0's, from a barrier to its end."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(ROUNDS + 1):
        for function, samples in zip(functions, times, strict=True):
            comm.Barrier()
            start = clock.now(comm)
            function()
            if turn:
                samples.append(clock.now(comm) - start)
    return times


def _ratio(reference: list[float], measured: list[float]) -> str:
    """Median of the paired rate ratios, and their quartiles."""
    low, middle, high = np.quantile(np.array(reference) / np.array(measured), [0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def _table(comm: MeteredComm, title: str, columns: tuple[str, ...]) -> Table:
    where = provenance.describe(comm, gpu=False)
    text = f"{title}; {where['cpu_model']}, {where['cores']} cores, {where['mpi_library']}, medians of {ROUNDS}"
    table = Table(title=text, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def main() -> None:
    comm = MeteredComm(MPI.COMM_WORLD)
    measure = {"gossip": gossip, "record": record, "step": step}[sys.argv[1]]
    table = measure(comm)
    if comm.rank == 0:
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
