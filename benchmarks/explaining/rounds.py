"""The rounds of a synchronous program: who ended each of them, and how the run goes again with other times.

A worker is busy from the end of a round until it arrives at the next one. It leaves that when all whom it waits for
have sent what it needs, and a transfer later: all ranks in a collective, its neighbours where models are averaged over
a graph. So times of arrival and end, which every rank records, give the critical path without a look at any message.

When a neighbour has sent is up to the program and to MPI, so that rule is taken under which the least time is left
unexplained:

    arrival   it has sent when it arrives: of all collectives
    early     it has sent when its round before ended, as D-PSGD asks for, whose messages go beside the gradient
    meeting   the same to a worker that waits by then, else when it arrives: long messages move only inside MPI calls
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from outpace.benchmarks.explaining.wires import QUICK
from outpace.benchmarks.trace.run import Run
from outpace.benchmarks.trace.schema import KIND, ROUNDS
from outpace.comm import topology
from outpace.comm.errors import UserError

RULES: Final = ("arrival", "early", "meeting")

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Rounds:
    """Seconds of shape (workers, rounds). `peers` are the workers whom each waits for, itself first and again where it
    has fewer than others, shape (workers, most); `rule` says when these have sent."""

    arrive_s: Seconds
    end_s: Seconds
    injected_s: Seconds  # of the busy time
    peers: NDArray[np.int64]
    rule: str = "arrival"

    @classmethod
    def of(cls, run: Run) -> "Rounds":
        """Raises UserError for a run without a whole round."""
        n = run.attrs["n_workers"]
        rank, kind, start, end = (run.column("events", name) for name in ("rank", "kind", "t_start_s", "t_end_s"))
        in_round = np.isin(kind, [KIND[name] for name in ROUNDS])
        own = [np.flatnonzero(in_round & (rank == r)) for r in range(n)]
        count = min(map(len, own))
        if not count:
            raise UserError(f"{run.path}: no round of communication of all workers in /events")
        arrive_s, end_s = (np.array([times[rows[:count]] for rows in own]) for times in (start, end))
        injected_s = np.zeros((n, count))
        for r in range(n):
            rows = np.flatnonzero((kind == KIND["inject"]) & (rank == r))
            place = np.searchsorted(arrive_s[r], start[rows], "right")
            injected_s[r] = np.bincount(place, end[rows] - start[rows], minlength=count + 1)[:count]
        graph = str(run.config.get("topology", "none"))
        if graph == "none":
            return cls(arrive_s, end_s, injected_s, np.zeros((n, 0), np.int64))
        by_rule = [cls(arrive_s, end_s, injected_s, _peers(graph, n), rule) for rule in RULES]
        return min(by_rule, key=lambda rounds: float(np.abs(end_s - rounds.ready_s()).sum()))

    @property
    def before_s(self) -> Seconds:
        """When the round before had ended."""
        return np.hstack([np.zeros((len(self.end_s), 1)), self.end_s[:, :-1]])

    @property
    def busy_s(self) -> Seconds:
        return self.arrive_s - self.before_s

    @property
    def usual_s(self) -> Seconds:
        """How long a worker is busy in each round when nothing is injected: the median over the workers, (rounds,)."""
        return np.asarray(np.median(self.busy_s - self.injected_s, axis=0))

    def ready_s(self) -> Seconds:
        """When each worker had arrived, and all whom it waits for had sent."""
        ready = [self._ready(*times) for times in zip(self.before_s.T, self.arrive_s.T, strict=True)]
        return np.stack(ready, axis=1)

    @property
    def transfer_s(self) -> Seconds:
        """From then to the end of the round."""
        return np.maximum(0.0, self.end_s - self.ready_s())

    def seen(self, run: Run) -> Seconds:
        """Bytes per second at which the quicker rounds went over each rank's link, at least; shape (workers,)."""
        whole = not self.peers.shape[1]
        lasted_s = self.transfer_s if whole else self.end_s - self.before_s  # messages may go beside the gradient
        quick_s = np.quantile(lasted_s, QUICK, axis=1)
        nbytes = run.column("traffic", "nbytes").sum(axis=1) / self.end_s.shape[1]
        return np.asarray(nbytes / np.maximum(quick_s, 1e-9))

    def _sent(self, before: Seconds, arrive: Seconds) -> Seconds:
        """When each worker's peers have sent to it, in one round; shape (workers, most)."""
        if self.rule == "arrival":
            return np.asarray(arrive[self.peers])
        if self.rule == "early":
            return np.asarray(before[self.peers])
        posted = before[self.peers]
        return np.asarray(np.where(arrive[:, None] <= posted, posted, arrive[self.peers]))

    def _ready(self, before: Seconds, arrive: Seconds) -> Seconds:
        if not self.peers.shape[1]:  # a collective
            return np.full_like(arrive, arrive.max())
        return np.asarray(np.maximum(arrive, self._sent(before, arrive).max(axis=1)))

    def critical_path(self) -> NDArray[np.int64]:
        """The worker whose busy time each round waited for, back from the last end; -1 where a message of the round
        before was under way meanwhile; shape (rounds,)."""
        before_s = self.before_s
        path = np.full(self.end_s.shape[1], -1)
        rank = int(self.end_s[:, -1].argmax())
        for k in range(len(path) - 1, -1, -1):
            arrive = self.arrive_s[:, k]
            if not self.peers.shape[1]:
                path[k] = rank = int(arrive.argmax())
                continue
            sent = self._sent(before_s[:, k], arrive)[rank]
            last = int(sent.argmax())
            if arrive[rank] >= sent[last]:
                path[k] = rank
            else:
                rank = int(self.peers[rank, last])
                if sent[last] == arrive[rank]:
                    path[k] = rank
        return path

    def lost_s(self, path: NDArray[np.int64]) -> Seconds:
        """By how much the worker on the path was busy longer than usual, shape (rounds,)."""
        k = np.flatnonzero(path >= 0)
        lost = np.zeros(len(path))
        lost[k] = np.maximum(0.0, self.busy_s[path[k], k] - self.usual_s[k])
        return lost

    def again(self, busy_s: Seconds, transfer_s: Seconds) -> float:
        """Seconds that the same rounds take with these times, shape (workers, rounds)."""
        end = np.zeros(len(busy_s))
        for busy, transfer in zip(busy_s.T, transfer_s.T, strict=True):
            end = self._ready(end, end + busy) + transfer
        return float(end.max())


def _peers(graph: str, n: int) -> NDArray[np.int64]:
    W = topology.mixing_matrix(graph, n)
    groups = [[r, *topology.neighbours(W, r)] for r in range(n)]
    most = max(map(len, groups))
    return np.array([group + [r] * (most - len(group)) for r, group in enumerate(groups)])
