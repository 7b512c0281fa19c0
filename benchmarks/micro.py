"""`outpace micro NAME`: the primitives beside raw MPI, interleaved in one job, validated before a number is printed.

gossip   one pairwise averaging of AD-PSGD against a bare Sendrecv of the same size
record   what recording costs per step
step     what a step of each program costs beyond its gradient and its messages; of models of --dim numbers, beside the
         same step by hand
sign     the sign kernels against a copy on the same core or device, on a core also against NumPy's own packing
vote     a majority vote, from vectors to the outcome on every rank, against an Allreduce of float32
"""

import functools
import math
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
from mpi4py import MPI
from rich.console import Console
from rich.table import Table

from outpace.benchmarks import history, micro_sign, micro_step
from outpace.benchmarks.machine import launcher, links, namespaces, provenance
from outpace.benchmarks.trace.recorder import Trace
from outpace.benchmarks.trace.snapshots import Snapshots
from outpace.comm import agreement, arrays, clock, memory
from outpace.comm import sign as sign_kernels
from outpace.comm.arrays import Wired, module, synchronise, to_host
from outpace.comm.errors import UserError
from outpace.comm.gossip import NOTHING, Exchange, SharedModel
from outpace.comm.meter import MeteredComm
from outpace.comm.vote import EXCHANGES

RANKS: Final = {"gossip": 2, "record": 1, "step": 1, "sign": 1, "vote": 4}
SAMPLE_S: Final = 0.05  # of something so short that it is repeated; at least
Times = dict[str, list[float]]  # seconds of every sample, by what was measured

ROUNDS: Final = 15  # interleaved repetitions; the median is given, with the quartiles


def gossip(comm: MeteredComm, times: Times) -> Table:
    """Rank 1 asks, rank 0 answers, by the very functions of AD-PSGD, against one blocking Sendrecv of the same size,
    alone and with the plainest NumPy average around it."""
    if comm.size != 2:
        raise UserError(f"gossip is measured between 2 ranks; -n is {comm.size}")
    names = ("KiB", "Sendrecv us", "Sendrecv + average us", "exchange us")
    table = _table(comm, "gossip exchange, float32", (*names, "rate / Sendrecv", "rate / Sendrecv + average"))
    for kib in (4, 64, 256, 1024, 4096, 16384):
        x = np.random.default_rng([7, comm.rank]).standard_normal(kib * 256, dtype=np.float32)
        _validate_exchange(comm, x)
        s, r = x.copy(), x.copy()
        bare = functools.partial(_sendrecv, comm, s, r)
        averaging = functools.partial(_sendrecv_and_average, comm, x.copy(), s, r)
        count = _count(comm, bare, at_most=max(24, min(400, 65536 // kib)))
        variants = bare, averaging, functools.partial(_exchanges, comm, x)
        repeated = (functools.partial(variant, count) for variant in variants)
        samples = _interleaved(comm, *repeated, rounds=ROUNDS if kib < 4096 else 7)
        for name, seconds in zip(("Sendrecv", "Sendrecv + average", "exchange"), samples, strict=True):
            times[f"{kib} KiB, {name}"] = [each / count for each in seconds]
        medians = [f"{1e6 * statistics.median(seconds) / count:.1f}" for seconds in samples]
        table.add_row(f"{kib}", *medians, _ratio(samples[0], samples[2]), _ratio(samples[1], samples[2]))
    return table


def _count(comm: MeteredComm, repeat: Callable[[int], Any], at_most: int) -> int:
    """How often to repeat something in one sample; on a slow link less often, but enough to outweigh what is set up."""
    repeat(1)
    start = clock.now(comm)
    repeat(2)
    once = (clock.now(comm) - start) / 2
    return int(comm.bcast(max(12, min(at_most, math.ceil(SAMPLE_S / once)))))


def _sendrecv(comm: MeteredComm, s: np.ndarray, r: np.ndarray, count: int) -> None:
    peer = 1 - comm.rank
    for _ in range(count):
        MPI.Intracomm.Sendrecv(comm, s, peer, 1, r, peer, 1)


def _sendrecv_and_average(comm: MeteredComm, x: np.ndarray, s: np.ndarray, r: np.ndarray, count: int) -> None:
    peer = 1 - comm.rank
    for _ in range(count):
        np.copyto(s, x)
        MPI.Intracomm.Sendrecv(comm, s, peer, 1, r, peer, 1)
        r -= s
        r *= 0.5
        x += r


def _exchanges(comm: MeteredComm, x: np.ndarray, count: int) -> np.ndarray:
    """`count` averagings as AD-PSGD makes them; the model afterwards."""
    trace, peer = Trace(comm, Snapshots(0, len(x), x.dtype, per_step=True)), 1 - comm.rank
    model = SharedModel(comm, x.copy(), trace)
    exchange = Exchange(comm, model, 1, [0.5, 0.5])
    ask, ready = 2, 3  # tags
    for _ in range(count):
        with trace.phase("exchange", peer, exchange.nbytes, background=True):
            if comm.rank:
                exchange.average_with(peer, [comm.Irecv(NOTHING, peer, ready), comm.Isend(NOTHING, peer, ask)])
            else:
                clock.wait(comm, [comm.Irecv(NOTHING, peer, ask)])
                exchange.average_with(peer, [comm.Isend(NOTHING, peer, ready)])
    return model.x  # type: ignore[no-any-return]


def _validate_exchange(comm: MeteredComm, x: np.ndarray) -> None:
    """One exchange leaves the mean on both ranks."""
    other = np.empty_like(x)
    comm.Sendrecv(x, 1 - comm.rank, 2, other, 1 - comm.rank, 2)
    if not np.allclose(_exchanges(comm, x, 1), (x + other) / 2, rtol=0, atol=1e-6):
        raise RuntimeError(f"rank {comm.rank}: an exchange did not leave the average")


def record(comm: MeteredComm, times: Times) -> Table:
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
    drained = trace.drain()
    if (len(drained["steps"]), len(drained["events"])) != (10 * 64, 30 * 48):
        raise RuntimeError("recording lost rows")
    (seconds,) = _interleaved(comm, once)
    times["step"] = [each / 20_000 for each in seconds]
    table.add_row("20000", f"{1e6 * statistics.median(times['step']):.2f}", "10")
    return table


def steps_by_hand(comm: MeteredComm, times: Times, dim: int) -> Table:
    """Steps of programs on models of `dim` numbers, beside the same steps by hand."""
    if comm.size != 2:
        raise UserError(f"step --dim is measured between 2 ranks; -n is {comm.size}")
    nbytes = 2 * micro_step.VECTORS * 4 * dim
    agreement.together(comm, lambda: memory.refuse(nbytes, memory.of_node(), f"--dim {dim}", "its 2 ranks need"))
    kinds = ("ours", *micro_step.PASSES)
    table = _table(
        comm, f"steps of {dim} float32", ("program", *(f"{kind} us" for kind in kinds), "ours / NumPy", "ours / fused")
    )
    rounds, count = ROUNDS if dim < 10**7 else 7, max(5, min(1000, 10**8 // dim))
    for name, samples in micro_step.measure(comm, dim, rounds, count):
        times.update({f"{name}, {kind}": seconds for kind, seconds in samples.items()})
        if comm.rank == 0:
            medians = [f"{1e6 * statistics.median(samples[kind]):.1f}" for kind in kinds]
            ratios = [_ratio(samples["ours"], samples[kind]) for kind in ("NumPy", "fused")]
            table.add_row(name, *medians, *ratios)
    return table


def step(comm: MeteredComm, times: Times) -> Table:
    """A whole step of each program on one rank with a gradient that costs nothing: the suite's own overhead."""
    table = _table(comm, "step overhead, no gradient, dim 1000", ("program", "us per step"))

    for name, run in micro_step.alone(comm, 5000):
        (seconds,) = _interleaved(comm, run)
        times[name] = [each / 5000 for each in seconds]
        table.add_row(name, f"{1e6 * statistics.median(times[name]):.1f}")
    return table


def sign(comm: MeteredComm, times: Times, xp: ModuleType) -> Table:
    """Bytes that a kernel has to read and write, per second, over those of a copy of the vector."""
    dim = micro_sign.DIMS[xp.__name__]
    measured = micro_sign.kernels(xp, dim)
    if xp is np:
        v, words = np.random.default_rng(7).standard_normal(dim, dtype=np.float32), np.zeros(dim // 32, np.uint32)
        for name, whole in (("NumPy, v < 0 alone", False), ("NumPy, zeros and NaN too", True)):
            measured.append(micro_sign.Kernel(name, 4.125, functools.partial(_numpy_pack, v, words, whole)))
    calls = [kernel.call for kernel in measured]
    every = _interleaved(comm, *calls) if xp is np else micro_sign.by_events(xp, calls, ROUNDS)
    title = f"sign kernels, 2^{dim.bit_length() - 1} float32, {xp.__name__}"
    table = _table(comm, title, ("kernel", "GB/s", "rate / copy"), gpu=xp is not np)
    for (name, nbytes, _), samples in zip(measured, every, strict=True):
        times[name] = samples
        rate = nbytes * dim / statistics.median(samples) / 1e9
        table.add_row(name, f"{rate:.1f}", _ratio([t * nbytes / 8 for t in every[0]], samples))
    return table


def _numpy_pack(v: np.ndarray, words: np.ndarray, whole: bool, block: int = 1 << 17) -> None:
    """Pack signs in blocks that fit the second-level cache; `whole` sees to zeros and NaN as the kernels do."""
    packed, plus, minus = words.view(np.uint8), np.empty(block, bool), np.empty(block, bool)
    for start in range(0, v.size, block):
        part = v[start : start + block]
        np.greater(part, 0, out=plus)
        if whole:
            np.less(part, 0, out=minus)
            np.logical_or(plus, minus, out=minus)
            if not minus.all() and np.isnan(part).any():
                raise RuntimeError("a NaN among normal numbers")
        packed[start // 8 : (start + block) // 8] = np.packbits(plus, bitorder="little")


def vote(comm: MeteredComm, times: Times, xp: ModuleType) -> Table:
    """From every rank's vector to the outcome on every rank: pack, exchange, count, exchange."""
    names = tuple(f"{name} ms" for name in EXCHANGES)
    columns = ("coordinates", "Allreduce ms", *names, *(f"rate of {name}" for name in EXCHANGES))
    table = _table(comm, f"majority vote of {comm.size} ranks, float32, {xp.__name__}", columns)
    for exponent in (16, 19, 22, 25):
        dim = 1 << exponent
        v = xp.asarray(np.random.default_rng([9, comm.rank]).standard_normal(dim, dtype=np.float32))
        total = Wired((dim,), np.float32, xp, comm)
        variants = [functools.partial(_allreduce, comm, v, total)]
        for name in EXCHANGES:
            route = EXCHANGES[name](comm, dim, xp)
            ballot = Wired((route.owners, route.words), np.uint32, xp, comm)
            outcome = Wired((route.owners, 1, route.words), np.uint32, xp, comm)
            variants.append(functools.partial(_vote, route, v, ballot, outcome))
            variants[-1]()
            _validate_vote(comm, v, outcome)
        every = _interleaved(comm, *variants, rounds=ROUNDS if exponent < 25 else 5)
        for name, samples in zip(("Allreduce", *EXCHANGES), every, strict=True):
            times[f"2^{exponent}, {name}"] = samples
        medians = [f"{1e3 * statistics.median(samples):.2f}" for samples in every]
        table.add_row(f"2^{exponent}", *medians, *(_ratio(every[0], samples) for samples in every[1:]))
    return table


def _allreduce(comm: MeteredComm, v: Any, total: Wired) -> None:
    total.array[:] = v
    comm.Allreduce(MPI.IN_PLACE, total.to_wire())
    total.from_wire()


def _vote(route: Any, v: Any, ballot: Wired, outcome: Wired) -> None:
    coins = outcome.array.reshape(-1)
    sign_kernels.kernels(module(v)).ballot(v, coins, 0, ballot.array.reshape(-1))
    route.majority(ballot, coins, outcome)
    synchronise(v)  # with int8, kernels come last


def _validate_vote(comm: MeteredComm, v: Any, outcome: Wired) -> None:
    """The first coordinates' majority is the sign of the plain sum of signs, where no tie and no zero decides."""
    few = min(v.size, 1 << 16)
    total = np.sign(to_host(v[:few])).astype(np.int32)
    zeros = (total == 0).astype(np.int32)
    comm.Allreduce(MPI.IN_PLACE, total)
    comm.Allreduce(MPI.IN_PLACE, zeros)
    plus = np.unpackbits(to_host(outcome.array).view(np.uint8).ravel()[: few // 8], bitorder="little")
    clear = np.abs(total) > zeros
    if not np.array_equal(plus[clear], total[clear] > 0):
        raise RuntimeError(f"rank {comm.rank}: the vote is not the sign of the sum of signs")


def _interleaved(comm: MeteredComm, *functions: Callable[[], Any], rounds: int = ROUNDS) -> list[list[float]]:
    """Seconds of each function, `rounds` of them taken in turns after a warm-up: rank 0's, from a barrier to its end,
    at which it has no kernel running."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(rounds + 1):
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


def _table(comm: MeteredComm, title: str, columns: tuple[str, ...], gpu: bool = False) -> Table:
    where = provenance.describe(comm, gpu)
    behind = f", links {os.environ[namespaces.VARIABLE]}" if namespaces.VARIABLE in os.environ else ""
    device = f"{where['gpu']}, " if gpu else ""
    place = f"{device}{where['cpu_model']}, {where['cores']} cores, {where['mpi_library']}"
    text = f"{title}{behind}; {place}, medians of {ROUNDS}, of long vectors fewer"
    table = Table(title=text, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def main() -> None:
    comm = MeteredComm(MPI.COMM_WORLD)
    launcher.report(comm.rank)
    clock.share_cores(comm)
    name, backend, behind, size, *kept = sys.argv[1:]
    links_spec, times, dim = behind.removeprefix("--links="), Times(), int(size.removeprefix("--dim="))
    measures: dict[str, Callable[..., Table]] = {"sign": sign, "vote": vote}
    host_measures: dict[str, Callable[..., Table]] = {"gossip": gossip, "record": record, "step": step}
    if dim:
        host_measures["step"] = functools.partial(steps_by_hand, dim=dim)
    try:
        namespaces.check_behind(links.canonical(links_spec))
        xp = arrays.load(backend, comm)
        table = measures[name](comm, times, xp) if name in measures else host_measures[name](comm, times)
    except UserError as error:  # the same on every rank
        if comm.rank == 0:
            print(f"outpace: {error}", file=sys.stderr, flush=True)
        MPI.Finalize()
        sys.exit(2)
    where = provenance.describe(comm, gpu=False) if kept else {}
    if comm.rank == 0:
        Console(width=120).print(table)
    if comm.rank == 0 and kept:
        machine = {key: where[key] for key in ("cpu_model", "cores", "mpi_library", "outpace_version", "git_commit")}
        about = {"name": name, "backend": backend, "links": links_spec, "ranks": comm.size} | machine
        history.write(Path(kept[0].removeprefix("--json=")), about, times)


if __name__ == "__main__":
    main()
    MPI.Finalize()
