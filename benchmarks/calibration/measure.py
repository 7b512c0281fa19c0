"""What four ranks measure: the patterns in which programs send, with short and with long messages, and processors.

duplex       ranks 0 and 1, 2 and 3 exchange, by messages both ways, as workers of AD-PSGD do
neighbours   all exchange with both neighbours on a ring, by the collective of D-PSGD
allreduce    all take part in one, of float32
incast       three ask the fourth, as workers ask a server, each again when it has been answered
"""

import time
from collections.abc import Callable
from typing import Final

import numpy as np
from mpi4py import MPI

from outpace.benchmarks import problems
from outpace.benchmarks.problems import Setting
from outpace.benchmarks.running.pace import rehearsal
from outpace.comm import agreement, clock, server
from outpace.comm.meter import MeteredComm

RANKS: Final = 4
SHORT: Final = 8  # bytes
SHORTEST, LONGEST = 2**16, 2**22  # of a long message, which is as long as it takes for LONG_S
LONG_S: Final = 0.1
ROUNDS: Final = 9  # samples of each; the fastest counts
SHORT_ROUNDS: Final = 50  # of short messages, of which most ranks wait for a core
ASKS: Final = 4  # of each worker in an exchange
BATCH: Final = 16
BURST: Final = 16  # messages that are there before they are received; with 200, MPICH over TCP was seen to stop
NAP_S: Final = 1e-4
LEAST_OVERLAP, OVERLAP_S = 2**14, 0.1  # bytes of the first message, seconds of the last
PASS: Final = 2**22  # bytes

Samples = dict[str, list[float]]  # seconds, by what took them


def patterns(comm: MeteredComm) -> tuple[dict[str, int], Samples]:
    """Bytes of the long messages of each pattern; and of each pattern seconds of a short exchange, as NAME, short, and
    of a long one, as NAME, long. Collective, with the same result on every rank."""
    sizes, samples = {}, Samples()
    for name, pattern in PATTERNS.items():
        short = pattern(comm, SHORT)
        samples[f"{name}, short"] = _sampled(comm, short, SHORT_ROUNDS)
        nbytes = SHORTEST
        while min(_sampled(comm, pattern(comm, nbytes), 3)) < LONG_S and nbytes < LONGEST:
            nbytes *= 2
        sizes[name] = nbytes
        samples[f"{name}, long"] = _sampled(comm, pattern(comm, nbytes), ROUNDS)
    return sizes, samples


def overlapping(comm: MeteredComm) -> int:
    """The longest message that travels while its ranks sleep, of those that take up to OVERLAP_S; 0 for none.
    Collective, with the same result on every rank."""
    longest, nbytes, alone_s = 0, LEAST_OVERLAP, 0.0
    while nbytes <= LONGEST and alone_s < OVERLAP_S:
        alone_s = min(_sampled(comm, _duplex(comm, nbytes), 3))
        if min(_left(comm, nbytes, 2 * alone_s) for _ in range(3)) < alone_s / 2:
            longest = nbytes
        nbytes *= 2
    return longest


def _left(comm: MeteredComm, nbytes: int, asleep_s: float) -> float:
    """Seconds that an exchange still takes after so many seconds of sleep."""
    peer = comm.rank ^ 1
    out, into = np.ones((2, nbytes), np.uint8)
    comm.Barrier()
    requests = [comm.Irecv(into, peer), comm.Isend(out, peer)]
    clock.sleep(comm, asleep_s)
    start = clock.now(comm)
    clock.wait(comm, requests, under_way=True)
    return float(comm.allreduce(clock.now(comm) - start, MPI.MAX))


def processors(comm: MeteredComm) -> Samples:
    """CPU seconds of rank 0 for a message and for a pass over PASS bytes, and what a nap takes beyond what was asked
    for. Collective; other ranks wait."""
    sent = _burst(comm)
    x, y = np.ones(PASS // 4, np.float32), np.ones(PASS // 4, np.float32)
    passes = _times(lambda: np.add(x, y, out=x), time.thread_time)
    naps = [each - NAP_S for each in _times(lambda: time.sleep(NAP_S), time.monotonic)]
    return {"message": sent, "pass": passes, "nap": naps}


def compute(comm: MeteredComm, problem: str) -> list[float]:
    """Seconds of a gradient over BATCH samples at rank 0, while the others wait; a list on every rank. Raises UserError
    for a problem that there is not."""

    def measure() -> list[float]:
        setting = Setting(MPI.COMM_SELF, range(1), 1, "iid", 0, "float32", np, BATCH)
        (built, *_) = problems.build(problem, setting)
        return _times(rehearsal(built, BATCH, MPI.COMM_SELF), time.monotonic)

    return list(comm.bcast(agreement.on_root(comm, measure)))


def _times(do: Callable[[], object], read: Callable[[], float]) -> list[float]:
    """After a warm-up."""
    times = []
    for _ in range(ROUNDS + 1):
        start = read()
        do()
        times.append(read() - start)
    return times[1:]


def _sampled(comm: MeteredComm, do: Callable[[], object], rounds: int) -> list[float]:
    """Seconds from a barrier until the last rank has done it; `rounds` of them after a warm-up."""
    samples = []
    for _ in range(rounds + 1):
        comm.Barrier()
        start = clock.now(comm)
        do()
        samples.append(float(comm.allreduce(clock.now(comm) - start, MPI.MAX)))
    return samples[1:]


def _duplex(comm: MeteredComm, nbytes: int) -> Callable[[], object]:
    peer = comm.rank ^ 1
    out, into = np.ones((2, nbytes), np.uint8)

    def exchange() -> None:
        clock.wait(comm, [comm.Irecv(into, peer), comm.Isend(out, peer)], under_way=True)

    return exchange


def _neighbours(comm: MeteredComm, nbytes: int) -> Callable[[], object]:
    beside = [(comm.rank - 1) % comm.size, (comm.rank + 1) % comm.size]
    graph = comm.Create_dist_graph_adjacent(beside, beside)
    out, into = np.ones(nbytes, np.uint8), np.ones((2, nbytes), np.uint8)

    def exchange() -> None:
        graph.Ineighbor_allgather(out, into).Wait()

    return exchange


def _allreduce(comm: MeteredComm, nbytes: int) -> Callable[[], object]:
    x = np.zeros(nbytes // 4, np.float32)

    def reduce() -> None:
        comm.Allreduce(MPI.IN_PLACE, x)

    return reduce


def _incast(comm: MeteredComm, nbytes: int) -> Callable[[], object]:
    last = comm.size - 1
    x, answer = np.ones((2, nbytes), np.uint8)

    def ask() -> None:
        if comm.rank == last:
            for _ in server.exchanges(comm, last, x):
                pass
        else:
            for _ in range(ASKS):
                server.ask(comm, {last: slice(None)}, x, answer)
            server.leave(comm, [last])

    return ask


PATTERNS: Final[dict[str, Callable[[MeteredComm, int], Callable[[], object]]]] = {
    "duplex": _duplex,
    "neighbours": _neighbours,
    "allreduce": _allreduce,
    "incast": _incast,
}


def _burst(comm: MeteredComm) -> list[float]:
    """CPU seconds of rank 0 for each of BURST messages to rank 1, and back when they are all there."""
    peer, seconds = 1 - comm.rank, []
    buffers = np.zeros((BURST, SHORT), np.uint8)
    for _ in range(ROUNDS + 1):
        comm.Barrier()
        start = time.thread_time()
        if comm.rank < 2:
            requests = [comm.Isend(buffer, peer) for buffer in buffers]
        spent = time.thread_time() - start
        comm.Barrier()
        clock.sleep(comm, 10 * NAP_S)
        start = time.thread_time()
        if comm.rank < 2:
            requests += [comm.Irecv(buffer, peer) for buffer in buffers]
            MPI.Request.Waitall(requests)
        seconds.append((spent + time.thread_time() - start) / (2 * BURST))
    return list(comm.bcast(seconds[1:]))
