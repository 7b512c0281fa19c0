"""What the network of a run carried, against what it could: the rate of each rank's link, and its use."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from outpace.benchmarks.trace import pairs
from outpace.benchmarks.trace.run import Run
from outpace.benchmarks.trace.schema import COMMUNICATION, KIND

SLOW: Final = pairs.STANDS_OUT  # of the median rate of the ranks' links
REFUTED: Final = 2.0  # times the measured rate: one at which messages went shows that the measurement was disturbed
STEADY: Final = 0.7  # median rate of a rank's pairs over the fastest: a link that is slow is so to everybody
QUICK: Final = 0.1  # quantile of the times of messages by which they are judged


@dataclass(frozen=True)
class Wires:
    """Of each rank, shape (ranks,): bytes per second that its link gave when it was measured, NaN where it was not, or
    where messages of the run itself went much faster; whether it gave as much to all others, and not to each another
    rate, as on a machine that is busy; bytes that it sent and received."""

    rate: NDArray[np.float64]
    steady: NDArray[np.bool_]
    sent: NDArray[np.float64]
    received: NDArray[np.float64]

    @classmethod
    def of(cls, run: Run, seen: NDArray[np.float64]) -> "Wires":
        """`seen` are bytes per second at which messages went over each rank's link, at least; shape (ranks,)."""
        ranks = len(run.attrs["hostnames"])
        network = pairs.of(run)
        rate, steady = np.full(ranks, np.nan), np.zeros(ranks, bool)
        for r in np.union1d(network["a"], network["b"]):
            of_rank = network["bytes_per_s"][(network["a"] == r) | (network["b"] == r)]
            rate[r] = of_rank.max()  # a slow pair may be the other's fault
            steady[r] = np.median(of_rank) > STEADY * rate[r]
        rate[seen > REFUTED * rate] = np.nan
        nbytes = run.column("traffic", "nbytes").astype(np.float64)
        return cls(rate, steady, nbytes.sum(axis=1), nbytes.sum(axis=0))

    @property
    def busiest(self) -> NDArray[np.float64]:
        """Bytes the busier way, (ranks,)."""
        return np.maximum(self.sent, self.received)

    @property
    def busy_s(self) -> NDArray[np.float64]:
        """Seconds that each rank's link takes for its bytes at its rate, the busier way; NaN where it is not known."""
        return self.busiest / self.rate

    @property
    def usual(self) -> float:
        """The median of the rates; NaN where none was measured."""
        known = self.rate[np.isfinite(self.rate)]
        return float(np.median(known)) if len(known) else float("nan")

    @property
    def slow(self) -> NDArray[np.bool_]:
        """Which ranks have a link that stands out, shape (ranks,)."""
        return self.steady & (self.rate < SLOW * self.usual)


def seen(run: Run) -> NDArray[np.float64]:
    """Bytes per second of the quicker messages of an asynchronous program, over each link that they took, (ranks,).

    A worker's message to a server is answered in its event. Of an averaging the longer event counts: the side that
    asks sends first, so all may have come when the other one's begins.
    """
    n, ranks = run.attrs["n_workers"], len(run.attrs["hostnames"])
    rank, kind, peer, nbytes = (run.column("events", name) for name in ("rank", "kind", "peer", "nbytes"))
    lasted = run.column("events", "t_end_s") - run.column("events", "t_start_s")
    sent = np.isin(kind, [KIND[name] for name in COMMUNICATION]) & (rank < n) & (peer < 0) & (lasted > 0)
    rates: list[list[NDArray[np.float64]]] = [
        [nbytes[sent & (rank == r)] / lasted[sent & (rank == r)]] for r in range(n)
    ]
    size, by_pair = nbytes.max(initial=0), exchanges(run)
    for (r, other), times in by_pair.items():
        back = by_pair.get((other, r), np.empty(0))[: len(times)]
        rates[r if r < n else other].append(size / np.maximum(times[: len(back)], back))
    quick = [np.quantile(all_, 1 - QUICK) if len(all_ := np.concatenate(each)) else 0.0 for each in rates]
    servers = ranks - n  # of several, each has a part of the message
    return np.array(quick + [max(quick) if servers == 1 else 0.0] * servers)


def exchanges(run: Run) -> dict[tuple[int, int], NDArray[np.float64]]:
    """Seconds of each communication that names a peer, as (rank, peer), in the order of time."""
    rank, kind, peer = (run.column("events", name) for name in ("rank", "kind", "peer"))
    lasted = run.column("events", "t_end_s") - run.column("events", "t_start_s")
    named = np.flatnonzero(np.isin(kind, [KIND[name] for name in COMMUNICATION]) & (peer >= 0))
    pair = rank[named].astype(np.int64) << 32 | peer[named]
    order = np.argsort(pair, kind="stable")
    keys, first = np.unique(pair[order], return_index=True)
    parts = np.split(lasted[named][order], first[1:]) if len(keys) else []
    return {(int(key >> 32), int(key & 0xFFFFFFFF)): part for key, part in zip(keys, parts, strict=True)}
