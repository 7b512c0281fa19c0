"""A network in simulated time: when a message has left and when it is there, and when a collective is over.

Every rank has a port out and a port in. A message travels in packets. A port serves the pairs of ranks that want it in
turn, a packet of each; so a small message waits for a packet of each other pair, not for whole models, and does not
pass them by. A pair may have WINDOW packets waiting at the port in, and sends on when one of them is taken. Round robin
with such windows shares all bottlenecks max-min (Hahne, Round-robin scheduling for max-min fairness in data networks,
IEEE JSAC 9, 1991). A port takes in a packet while it still arrives (cut-through); where the sender is slower, just so
late that both end together. Messages of one pair never overtake.

Packets of a message are longer or shorter by a lognormal factor of median 1, drawn by the seed, and so is its share of
a port. Without that jitter the flows into a server fall into step, and take half as long again as they do in reality.

A port takes the gap (seconds per byte) of its machine, or of the rank's link where that is larger. The machine has one
for each pattern of the flows that are there: a pair alone (duplex), several flows at both ports (neighbours), several
at one (incast). Collectives take what `collectives` says, as if they had the network for themselves; the slowest link
among their ranks counts for all.

There is nothing here of MPI, and no event is left where nothing is under way.
"""

import bisect
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import simpy

from outpace.comm import collectives
from outpace.comm.clock import LONGEST_NAP_S, NAP_SHARE, SPIN_S
from outpace.comm.collectives import Kind
from outpace.comm.machines import Machine
from outpace.comm.streams import JITTER

WINDOW: Final = 2  # packets of a pair that wait at the port in
MOST_PACKETS: Final = 64  # of a message: long ones have longer packets, so no model costs more events than that

Change = tuple[float, float]  # seconds, and the bytes per second from then on


@dataclass(frozen=True)
class Limits:
    """Links slower than the machine's network, in payload bytes per second each way; `delay_s` is one way."""

    of_rank: Mapping[int, float] = field(default_factory=dict)
    of_pair: Mapping[tuple[int, int], float] = field(default_factory=dict)  # from the first to the second
    changes: Mapping[int, Iterator[Change]] = field(default_factory=dict)  # of a rank's link, in order of time
    delay_s: float = 0.0


class Transfer:
    """A message under way: `delivered` when all of it is there, `sent` when the sender's buffer is free."""

    __slots__ = ("_env", "_sent_at", "delivered")

    def __init__(self, env: simpy.Environment, delivered: simpy.Event, sent_at: float) -> None:
        self._env, self.delivered, self._sent_at = env, delivered, sent_at

    @property
    def sent(self) -> simpy.Event:
        return self._env.timeout(max(0.0, self._sent_at - self._env.now))  # few ask for it


class Message(Transfer):
    """One that takes turns with others."""

    __slots__ = ("_sent", "left", "packet")

    def __init__(self, env: simpy.Environment, nbytes: float, packet: float) -> None:
        super().__init__(env, env.event(), math.inf)
        self._sent = env.event()
        self.left, self.packet = nbytes, packet  # bytes

    @property
    def sent(self) -> simpy.Event:
        return self._sent


class Pair:
    """The messages from rank a to rank b, in order. There are many pairs, most of them quiet: an empty deque takes ten
    times the memory of a list."""

    __slots__ = ("arrived", "gap", "messages", "out", "queued", "ready", "take", "there_at")

    def __init__(self, out: "Port", take: "Port", gap: float) -> None:
        self.out, self.take, self.gap = out, take, gap
        self.messages: list[Message] = []  # whose bytes have not all left
        self.arrived: list[tuple[float, Message | None]] = []  # packets: bytes, and the message if its last
        self.ready = 0  # how many of them no longer arrive: the pair has a turn at the port in
        self.queued = False  # for its turn at the port out
        self.there_at = -math.inf  # when the last message is delivered, or was

    def after(self, now: float, delay: float) -> float:
        """The delay with which the next message is delivered: after the last one, however times were rounded."""
        if now + delay <= self.there_at:
            delay = self.there_at - now + 2 * math.ulp(self.there_at)
        self.there_at = now + delay
        return delay


class Port:
    """One direction of a rank's link: it serves the pairs that wait, in turn."""

    __slots__ = ("changes", "flows", "free_at", "limit", "serve", "serving", "turn", "wakes")

    def __init__(self, limit: float, changes: Iterator[Change] | None, serve: Callable[["Port"], None]) -> None:
        self.limit = limit  # seconds per byte of the link
        self.changes = _Changes(changes) if changes else None
        self.serve = serve
        self.turn: deque[Pair] = deque()
        self.free_at = -math.inf
        self.wakes = False
        self.serving = False
        self.flows = 0  # pairs with something under way through this port

    def gap(self, now: float) -> float:
        if self.changes:
            self.limit = self.changes.gap(now)
        return self.limit


class _Changes:
    """Rates that change in time, read when they are asked for."""

    def __init__(self, changes: Iterator[Change]) -> None:
        self._changes = changes
        self._gap = 1 / next(changes)[1]
        self._next = next(changes, None)

    def gap(self, now: float) -> float:
        while self._next and self._next[0] <= now:
            self._gap = 1 / self._next[1]
            self._next = next(self._changes, None)
        return self._gap


class Network:
    """The network of `machine` for n ranks, behind `links` where there are any."""

    def __init__(
        self,
        env: simpy.Environment,
        machine: Machine,
        n: int,
        links: Limits | None = None,
        seed: int = 0,
    ) -> None:
        links = links or Limits()
        self._env, self._machine, self._links = env, machine, links
        limits = [1 / links.of_rank[rank] if rank in links.of_rank else 0.0 for rank in range(n)]
        # Both ports of a rank change together, and each reads the changes by itself.
        changes = {rank: itertools.tee(of_rank) for rank, of_rank in links.changes.items()}
        self._out = [Port(limits[i], changes[i][0] if i in changes else None, self._send) for i in range(n)]
        self._in = [Port(limits[i], changes[i][1] if i in changes else None, self._take) for i in range(n)]
        self._pairs: dict[tuple[int, int], Pair] = {}
        self.oversleep_s, self.eager_nbytes = machine.oversleep_s, machine.eager_bytes
        self._packet = float(machine.packet_bytes)
        gaps, latencies = machine.gap_s_per_byte, machine.latency_s  # by how many ends have several flows
        self._gaps = gaps.duplex, gaps.incast, gaps.neighbours
        self._latencies = [each + links.delay_s for each in (latencies.duplex, latencies.incast, latencies.neighbours)]
        self._rng = np.random.default_rng([JITTER, seed])
        self._looks = _looks(machine.oversleep_s)

    def transfer(self, a: int, b: int, nbytes: int) -> Transfer:
        """Start a message from rank a to rank b."""
        pair = self._pairs.get((a, b)) or self._new_pair(a, b)
        env, now, out, take = self._env, self._env.now, pair.out, pair.take
        if a == b:
            return Transfer(env, env.timeout(pair.after(now, 0.0)), now)
        packet = self._packet
        # Most messages are short, and find both ports idle: they take no turns.
        if nbytes <= packet and not (out.flows or take.flows or pair.gap) and max(out.free_at, take.free_at) <= now:
            leaving, taking = nbytes * max(self._gaps[0], out.gap(now)), nbytes * max(self._gaps[0], take.gap(now))
            if taking >= leaving:
                out.free_at, take.free_at = now + leaving, now + taking
                return Transfer(env, env.timeout(pair.after(now, taking + self._latencies[0])), out.free_at)
        if nbytes > packet:
            packet = max(packet, nbytes / MOST_PACKETS)
            packet *= math.exp(self._machine.jitter * self._rng.standard_normal())
        message = Message(env, nbytes, packet)
        if not (pair.messages or pair.arrived):
            out.flows += 1
            take.flows += 1
        pair.messages.append(message)
        self._queue(pair)
        return message

    def collective(self, kind: Kind | Literal["neighbor_allgather"], ranks: Sequence[int], nbytes: int) -> simpy.Event:
        """All of `ranks` have arrived; the event is when it is over. `nbytes` as in `collectives`. In a neighbours'
        allgather the first rank takes in a block of each of the others, by messages among others."""
        if kind == "neighbor_allgather":
            receiver, *heard = ranks
            return simpy.AllOf(self._env, [self.transfer(rank, receiver, nbytes).delivered for rank in heard])
        rounds, nbytes_of_all = collectives.cost(kind, len(ranks), nbytes, self._machine.allreduce)
        now = self._env.now
        limits = (max(self._out[rank].gap(now), self._in[rank].gap(now)) for rank in ranks)
        gap = max(self._machine.gap_s_per_byte.allreduce, *limits, *self._pair_limits(ranks))
        latency = self._machine.latency_s.allreduce + self._links.delay_s
        return self._env.timeout(rounds * latency + nbytes_of_all * gap)

    def message_cpu_s(self, nbytes: int) -> float:
        """CPU seconds of a rank for one message that it sends or receives."""
        return self._machine.cpu_per_message_s

    def pass_s(self, nbytes: int) -> float:
        """CPU seconds of one pass over so many bytes."""
        return self._machine.pass_s_per_byte * nbytes

    def nap_s(self, waited_s: float) -> float:
        """What the naps of `clock.wait` add to a wait of so many seconds: until the first look after its end."""
        if waited_s <= SPIN_S:
            return 0.0
        if waited_s <= self._looks[-1]:
            return self._looks[bisect.bisect_left(self._looks, waited_s)] - waited_s
        nap = LONGEST_NAP_S + self.oversleep_s
        beyond = waited_s - self._looks[-1]
        return math.ceil(beyond / nap) * nap - beyond

    def _new_pair(self, a: int, b: int) -> Pair:
        rate = self._links.of_pair.get((a, b))
        pair = self._pairs[a, b] = Pair(self._out[a], self._in[b], 1 / rate if rate else 0.0)
        return pair

    def _pair_limits(self, ranks: Sequence[int]) -> Iterator[float]:
        if self._links.of_pair:
            members = {*ranks}
            yield from (1 / rate for pair, rate in self._links.of_pair.items() if members.issuperset(pair))

    def _pattern(self, pair: Pair) -> int:
        return (pair.out.flows > 1) + (pair.take.flows > 1)

    def _queue(self, pair: Pair) -> None:
        """Give the pair a turn at the port out, if it may have one."""
        if pair.messages and len(pair.arrived) < WINDOW and not pair.queued:
            pair.queued = True
            pair.out.turn.append(pair)
            self._serve(pair.out)

    def _serve(self, port: Port) -> None:
        """Let the port take its turns, as many as take no time, and the next one when it is free."""
        while port.turn and not (port.wakes or port.serving):
            if port.free_at > self._env.now:
                port.wakes = True
                self._later(port.free_at - self._env.now, lambda _: self._wake(port))
            else:
                port.serving = True
                port.serve(port)
                port.serving = False

    def _wake(self, port: Port) -> None:
        port.wakes = False
        self._serve(port)

    def _send(self, port: Port) -> None:
        """The port out: one packet of the pair whose turn it is."""
        pair = port.turn.popleft()
        pair.queued = False
        message = pair.messages[0]
        size = min(message.left, message.packet)
        message.left -= size
        last = message.left <= 0
        now = self._env.now
        of_machine = self._gaps[self._pattern(pair)]
        occupied = size * max(of_machine, port.gap(now))
        port.free_at = now + occupied
        leaving = max(occupied, size * pair.gap)
        pair.arrived.append((size, message if last else None))
        if last:
            del pair.messages[0]
            self._later(leaving, lambda _: message.sent.succeed())
        early = leaving - size * max(of_machine, pair.take.gap(now))
        if early > 0:
            self._later(early, lambda _: self._arrive(pair))
        else:
            self._arrive(pair)
        if leaving > occupied:
            pair.queued = True  # the port is the others' meanwhile
            self._later(leaving, lambda _: self._release(pair))
        else:
            self._queue(pair)

    def _release(self, pair: Pair) -> None:
        pair.queued = False
        self._queue(pair)

    def _arrive(self, pair: Pair) -> None:
        pair.ready += 1
        if pair.ready == 1:
            pair.take.turn.append(pair)
            self._serve(pair.take)

    def _take(self, port: Port) -> None:
        """The port in: one packet of the pair whose turn it is."""
        pair = port.turn.popleft()
        size, message = pair.arrived.pop(0)
        pair.ready -= 1
        if pair.ready:
            port.turn.append(pair)
        now = self._env.now
        pattern = self._pattern(pair)
        taking = size * max(self._gaps[pattern], port.gap(now))
        port.free_at = now + taking
        if message:
            there = pair.after(now, taking + self._latencies[pattern])
            self._later(there, lambda _: message.delivered.succeed())
        if not (pair.messages or pair.arrived):
            pair.out.flows -= 1
            port.flows -= 1
        self._queue(pair)

    def _later(self, delay: float, do: Callable[[Any], Any]) -> None:
        timeout = self._env.timeout(delay)
        assert timeout.callbacks is not None
        timeout.callbacks.append(do)


def _looks(oversleep_s: float) -> list[float]:
    """Seconds after which `clock.wait` looks again, until its naps are the longest."""
    looks = [SPIN_S]
    while NAP_SHARE * looks[-1] < LONGEST_NAP_S:
        looks.append(looks[-1] * (1 + NAP_SHARE) + oversleep_s)
    return looks
