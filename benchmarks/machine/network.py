"""What the network gives: round-trip time and rate of the pairs of ranks, measured before the timed part.

Two ranks exchange more and more bytes, both ways at the same time, as workers exchange models. The last exchange
counts: by then a token bucket is empty, which would let a burst through at once. Pairs that are measured at the same
time have no rank in common.
"""

import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np
from mpi4py import MPI

from outpace.comm import clock, streams

MOST_RANKS: Final = 64  # all of whose pairs are measured
TOTAL_S: Final = 0.8  # for all rounds together, by the links
ROUND_S: Final = 0.14  # for one of them: at 10 Mbit/s the last exchange then has 64 KiB, four bursts, and takes 55 ms
PINGS: Final = 10
PINGS_SHARE: Final = 0.2  # of the round, after which there are no more of them
LEAST_NBYTES: Final = 2**11
MOST_NBYTES: Final = 2**20  # eight bursts at 1 Gbit/s
CHUNKS: Final = 16  # messages of an exchange at most
LEAST_CHUNK: Final = 2**13  # bytes: of shorter messages headers take a larger part
MIDDLE: Final = 0.7  # of an exchange, past the burst
REPEATS: Final = 4  # of the last exchange at most, as far as there is time: the fastest counts
OVER: Final = -1  # in place of a number of bytes

Pair = tuple[int, int]


def measure(comm: MPI.Intracomm, seed: int) -> list[tuple[int, float, float]]:
    """A row for each pair of this rank with a higher one: that rank, the round-trip time in seconds, and the rate in
    bytes per second each way. Collective over comm, and past its meter.

    Slow links may take longer than TOTAL_S: as long as LEAST_NBYTES do for each pair, and for the first one twice the
    burst.
    """
    rounds = schedule(comm.size, seed)
    if not rounds:
        return []
    comm = MPI.Intracomm(comm).Dup()
    limit_s = min(ROUND_S, TOTAL_S / len(rounds))
    buffers = np.ones((2, MOST_NBYTES), dtype=np.uint8)
    rows = []
    for a, b in itertools.chain.from_iterable(rounds):
        if comm.rank == a:
            rows.append((b, *_lead(comm, b, buffers, limit_s)))
        elif comm.rank == b:
            _follow(comm, a, buffers)
    comm.Free()
    return rows


def schedule(n: int, seed: int) -> list[list[Pair]]:
    """Rounds of disjoint pairs (a, b), a < b, each pair once: those of n ranks by the circle method, or of more than
    MOST_RANKS those of a ring and of a random matching.

    >>> schedule(4, seed=0)
    [[(0, 3), (1, 2)], [(0, 1), (2, 3)], [(0, 2), (1, 3)]]
    """
    if n > MOST_RANKS:
        ring = [(a, a + 1) for a in range(n - 1)] + [(0, n - 1)]
        even = n - n % 2
        order = np.random.default_rng([streams.NETWORK, seed]).permutation(n)[:even]
        matching = set(map(tuple, np.sort(order.reshape(-1, 2)).tolist()))
        rounds = [ring[0:even:2], ring[1:even:2], ring[even:], sorted(matching.difference(ring))]
    else:
        m = n - 1 + n % 2
        rounds = [[] for _ in range(m)]
        for a, b in itertools.combinations(range(n), 2):
            rounds[(a + (a if b == m else b)) % m].append((a, b))  # rank m meets whom the sum would pair with itself
    return [pairs for pairs in rounds if pairs]


def _lead(comm: MPI.Intracomm, peer: int, buffers: np.ndarray, limit_s: float) -> tuple[float, float]:
    """Round-trip time and rate of the pair of this rank and `peer`, which follows."""
    _order(comm, peer, buffers, 0)  # waits for the peer, and connects
    start = clock.now(comm)
    trips: list[float] = []
    while len(trips) < PINGS and (not trips or clock.now(comm) < start + PINGS_SHARE * limit_s):
        sent = clock.now(comm)
        _order(comm, peer, buffers, 0)
        trips.append(clock.now(comm) - sent)
    nbytes = LEAST_NBYTES
    rates = [_order(comm, peer, buffers, nbytes)]
    spent_s = nbytes / rates[0]  # by the links, whatever the ranks waited for a core
    while len(rates) < REPEATS:
        fit_in = (limit_s - spent_s) * max(rates)  # bytes
        if nbytes < MOST_NBYTES and 2 * nbytes <= fit_in:
            nbytes *= 2
            rates.clear()
        elif nbytes > fit_in or clock.now(comm) > start + limit_s:
            break
        rates.append(_order(comm, peer, buffers, nbytes))
        spent_s += nbytes / rates[-1]
    clock.wait(comm, [comm.Isend(np.array([OVER]), peer)])
    return min(trips), max(rates)


def _order(comm: MPI.Intracomm, peer: int, buffers: np.ndarray, nbytes: int) -> float:
    """Have the peer exchange so many bytes with this rank; the rate of the slower way."""
    answer = np.empty(1)
    clock.wait(comm, [comm.Isend(np.array([nbytes]), peer)])
    rate = _exchange(comm, peer, buffers, nbytes)
    clock.wait(comm, [comm.Irecv(answer, peer)], under_way=True)
    return min(rate, float(answer[0]))


def _follow(comm: MPI.Intracomm, peer: int, buffers: np.ndarray) -> None:
    """The other side of `_lead`."""
    order = np.empty(1, dtype=np.int64)
    clock.wait(comm, [comm.Irecv(order, peer)])
    while order[0] != OVER:
        rate = _exchange(comm, peer, buffers, int(order[0]))
        clock.wait(comm, [comm.Isend(np.array([rate]), peer)])
        clock.wait(comm, [comm.Irecv(order, peer)], under_way=True)


def _exchange(comm: MPI.Intracomm, peer: int, buffers: np.ndarray, nbytes: int) -> float:
    """Send and receive so many bytes, in up to CHUNKS messages; the rate at which they came, infinite for none."""
    if not nbytes:
        return np.inf
    chunks = max(1, min(CHUNKS, nbytes // LEAST_CHUNK))
    outgoing, incoming = buffers[:, :nbytes].reshape(2, chunks, -1)
    receives = [comm.Irecv(chunk, peer) for chunk in incoming]
    sends = [comm.Isend(chunk, peer) for chunk in outgoing]
    t_s = [clock.now(comm)]
    for receive in receives:
        clock.wait(comm, [receive], under_way=True)
        t_s.append(clock.now(comm))
    clock.wait(comm, sends, under_way=True)
    return nbytes / chunks / interval(t_s)


def interval(t_s: Sequence[float]) -> float:
    """Seconds between two arrivals, by the edge of their lower convex hull that lies over its MIDDLE.

    A message is seen when it has come or later, where its rank was kept waiting for a core. So the earliest ones tell
    the rate. Those of a burst come first, and are an edge of their own.

    >>> t_s = [0, 0, 0, 0, *range(12)]
    >>> t_s[7] = t_s[8] = t_s[9]
    >>> interval(t_s)
    1.0
    """
    last = len(t_s) - 1
    middle = MIDDLE * last

    def at_middle(edge: Pair) -> float:
        i, j = edge
        return t_s[i] + (t_s[j] - t_s[i]) * (middle - i) / (j - i)

    i, j = min(itertools.product(range(int(middle) + 1), range(int(middle) + 1, last + 1)), key=at_middle)
    return (t_s[j] - t_s[i]) / (j - i)
