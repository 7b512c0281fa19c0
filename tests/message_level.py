"""Collectives message by message on a simulated network: what each rank sends and waits for, by the algorithms that
`outpace.comm.collectives` has closed forms of."""

from collections import defaultdict, deque
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import simpy

from outpace.comm.machines import Machine
from outpace.comm.network import Limits, Network

EAGER = 16_384  # bytes
Steps = Generator[simpy.Event, Any, None]
Program = Callable[["Ranks", int], Steps]


class Message(NamedTuple):
    nbytes: float
    sent: simpy.Event
    delivered: simpy.Event


class Ranks:
    """n ranks on a network. Short messages leave at once, long ones when they are waited for, as in MPI."""

    def __init__(self, machine: Machine, n: int, links: Limits | None = None) -> None:
        self.env, self.n = simpy.Environment(), n
        self.network = Network(self.env, machine, n, links)
        self._sends: dict[tuple[int, int], deque[Message]] = defaultdict(deque)  # that nobody waits for yet
        self._receives: dict[tuple[int, int], deque[simpy.Event]] = defaultdict(deque)  # that nobody has sent yet

    def seconds(self, program: Program) -> float:
        """Until the last rank has ended."""
        ends = [self.env.process(program(self, rank)) for rank in range(self.n)]
        self.env.run(simpy.AllOf(self.env, ends))
        return float(self.env.now)

    def send(self, a: int, b: int, nbytes: float) -> simpy.Event:
        """At a: when its buffer is free."""
        message = Message(nbytes, self.env.event(), self.env.event())
        if nbytes <= EAGER:
            self._start(a, b, message)
        if self._receives[a, b]:
            self._match(a, b, message, self._receives[a, b].popleft())
        else:
            self._sends[a, b].append(message)
        return message.sent

    def receive(self, a: int, b: int) -> simpy.Event:
        """At b: when the next message of a is there."""
        received = self.env.event()
        if self._sends[a, b]:
            self._match(a, b, self._sends[a, b].popleft(), received)
        else:
            self._receives[a, b].append(received)
        return received

    def _match(self, a: int, b: int, message: Message, received: simpy.Event) -> None:
        if message.nbytes > EAGER:
            self._start(a, b, message)
        _then(message.delivered, received)

    def _start(self, a: int, b: int, message: Message) -> None:
        transfer = self.network.transfer(a, b, int(message.nbytes))
        _then(transfer.sent, message.sent)
        _then(transfer.delivered, message.delivered)


def _then(first: simpy.Event, second: simpy.Event) -> None:
    if first.callbacks is None:
        second.succeed()
    else:
        first.callbacks.append(lambda _: second.succeed())


def barrier(ranks: Ranks, i: int) -> Steps:
    n, step = ranks.n, 1
    while step < n:
        sent = ranks.send(i, (i + step) % n, 0)
        yield ranks.receive((i - step) % n, i) & sent
        step *= 2


def bcast_tree(nbytes: float) -> Program:
    def program(ranks: Ranks, i: int) -> Steps:
        step = 1
        while step < ranks.n and not i & step:
            step *= 2
        if i:
            yield ranks.receive(i - step, i)
        while step := step // 2:
            if i + step < ranks.n:
                yield ranks.send(i, i + step, nbytes)

    return program


def bcast_scatter(nbytes: float, ring: bool) -> Program:
    """The root's subtrees get their parts, then all get all parts."""

    def program(ranks: Ranks, i: int) -> Steps:
        n, step = ranks.n, 1
        while step < n and not i & step:
            step *= 2
        if i:
            yield ranks.receive(i - step, i)
        while step := step // 2:
            if i + step < n:
                yield ranks.send(i, i + step, nbytes / n * min(step, n - i - step))
        yield from (allgather_ring if ring else allgather_doubling)(nbytes / n)(ranks, i)

    return program


def gather(nbytes: float) -> Program:
    def program(ranks: Ranks, i: int) -> Steps:
        step = 1
        while step < ranks.n and not i & step:
            if i + step < ranks.n:
                yield ranks.receive(i + step, i)
            step *= 2
        if i:
            yield ranks.send(i, i - step, nbytes * min(step, ranks.n - i))

    return program


def allgather_ring(nbytes: float) -> Program:
    def program(ranks: Ranks, i: int) -> Steps:
        for _ in range(ranks.n - 1):
            sent = ranks.send(i, (i + 1) % ranks.n, nbytes)
            yield ranks.receive((i - 1) % ranks.n, i) & sent

    return program


def allgather_doubling(nbytes: float) -> Program:
    def program(ranks: Ranks, i: int) -> Steps:
        step = 1
        while step < ranks.n:
            sent = ranks.send(i, i ^ step, step * nbytes)
            yield ranks.receive(i ^ step, i) & sent
            step *= 2

    return program


def allgather_bruck(nbytes: float) -> Program:
    def program(ranks: Ranks, i: int) -> Steps:
        n, have = ranks.n, 1
        while have < n:
            sent = ranks.send(i, (i - have) % n, min(have, n - have) * nbytes)
            yield ranks.receive((i + have) % n, i) & sent
            have *= 2

    return program


def allreduce_doubling(nbytes: float) -> Program:
    return _folded(nbytes, lambda ranks, i, p, who: _swap(ranks, i, p, who, lambda step: nbytes))


def allreduce_halving(nbytes: float) -> Program:
    def core(ranks: Ranks, i: int, p: int, who: Callable[[int], int]) -> Steps:
        yield from _swap(ranks, i, p, who, lambda step: nbytes / (2 * step))
        yield from _swap(ranks, i, p, who, lambda step: nbytes / p * step)

    return _folded(nbytes, core)


def allreduce_ring(nbytes: float) -> Program:
    def program(ranks: Ranks, i: int) -> Steps:
        for _ in range(2):
            yield from allgather_ring(nbytes / ranks.n)(ranks, i)

    return program


def alltoall_bruck(nbytes: float) -> Program:
    def program(ranks: Ranks, i: int) -> Steps:
        n, step = ranks.n, 1
        while step < n:
            sent = ranks.send(i, (i + step) % n, nbytes * sum(bool(block & step) for block in range(n)))
            yield ranks.receive((i - step) % n, i) & sent
            step *= 2

    return program


def alltoall_at_once(nbytes: float) -> Program:
    def program(ranks: Ranks, i: int) -> Steps:
        n = ranks.n
        for step in range(1, n):
            ranks.send(i, (i + step) % n, nbytes)
        for step in range(1, n):
            yield ranks.receive((i - step) % n, i)

    return program


def alltoall_pairwise(nbytes: float) -> Program:
    def program(ranks: Ranks, i: int) -> Steps:
        n = ranks.n
        for step in range(1, n):
            sent = ranks.send(i, (i + step) % n, nbytes)
            yield ranks.receive((i - step) % n, i) & sent

    return program


def _swap(ranks: Ranks, i: int, p: int, who: Callable[[int], int], nbytes: Callable[[int], float]) -> Steps:
    """Exchange with the partners at distances 1, 2, 4 ... of those that take part."""
    step = 1
    while step < p:
        partner = who(i ^ step)
        sent = ranks.send(who(i), partner, nbytes(step))
        yield ranks.receive(partner, who(i)) & sent
        step *= 2


def _folded(nbytes: float, core: Callable[[Ranks, int, int, Callable[[int], int]], Steps]) -> Program:
    """Of n ranks that are no power of two, the first 2 (n - p) are paired: the odd one speaks for both."""

    def program(ranks: Ranks, i: int) -> Steps:
        p = 1 << (ranks.n.bit_length() - 1)
        extra = ranks.n - p

        def who(number: int) -> int:
            return 2 * number + 1 if number < extra else number + extra

        if i >= 2 * extra:
            yield from core(ranks, i - extra, p, who)
        elif i % 2:
            yield ranks.receive(i - 1, i)
            yield from core(ranks, i // 2, p, who)
            yield ranks.send(i, i - 1, nbytes)
        else:
            sent = ranks.send(i, i + 1, nbytes)
            yield ranks.receive(i + 1, i) & sent

    return program
