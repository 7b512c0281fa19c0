"""The simplest network for simulated ranks, whose times can be told by head, and communicators for the contracts."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import simpy

from outpace.benchmarks.conformance.trial import Checked
from outpace.comm.matching import EAGER_NBYTES
from outpace.comm.simulated import SimulatedComm, World


class Transfer(NamedTuple):
    sent: simpy.Event
    delivered: simpy.Event


class Simple:
    """A message takes `latency_s` and a second per 100 MB; pairs share nothing with one another."""

    oversleep_s = 0.0
    eager_nbytes = EAGER_NBYTES

    def __init__(self, env: simpy.Environment, latency_s: float = 1e-4, cpu_s: float = 0.0, nap_s: float = 0.0) -> None:
        self._env, self._latency_s, self._cpu_s, self._nap_s = env, latency_s, cpu_s, nap_s
        self._free_s: defaultdict[tuple[int, int], float] = defaultdict(float)  # when a pair's next message can leave

    def transfer(self, a: int, b: int, nbytes: int) -> Transfer:
        self._free_s[a, b] = max(self._env.now, self._free_s[a, b]) + nbytes / 1e8
        way_s = self._free_s[a, b] - self._env.now
        return Transfer(self._env.timeout(way_s), self._env.timeout(self._latency_s + way_s))

    def collective(self, kind: str, ranks: Sequence[int], nbytes: int) -> simpy.Event:
        return self._env.timeout(self._latency_s + nbytes / 1e8)

    def message_cpu_s(self, nbytes: int) -> float:
        return self._cpu_s

    def pass_s(self, nbytes: int) -> float:
        return 0.0

    def nap_s(self, waited_s: float) -> float:
        return self._nap_s


class CheckedRanks(Checked, SimulatedComm):
    """What the contracts of programs want of a communicator."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.left = []


def on_ranks(n: int, target: Any, *args: Any, **network: float) -> list[Any]:
    """`target(comm, *args)` on n simulated ranks."""
    return World(n, lambda env: Simple(env, **network)).run(target, *args, kind=CheckedRanks)
