"""Simulated messages: which receive gets which one, which calls make a collective, and when either is over.

The data is real and is copied as MPI would copy it. When that is done says the `Network`, whose events the requests
wait for.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import numpy as np
import simpy
from greenlet import getcurrent, greenlet
from mpi4py import MPI

from outpace.comm.errors import UserError
from outpace.comm.events import Engine

# A collective of more bytes is moved by ranks that are inside MPI, as MPICH and Open MPI have it, to a factor of a few.
EAGER_NBYTES: Final = 2**16

Graph = Sequence[tuple[Sequence[int], Sequence[int]]]  # of every rank, those it hears and those that hear it


class Transfer(Protocol):
    """A message on its way: when its sender's buffer is free, and when all of it is there."""

    @property
    def sent(self) -> simpy.Event: ...
    @property
    def delivered(self) -> simpy.Event: ...


class Network(Protocol):
    """What takes time, in seconds. Ranks are those of the world; `nbytes` are of a message, of a collective per rank
    and receiver. `oversleep_s` is by how much a sleep is longer than was asked for. A message of up to `eager_nbytes`
    leaves at once; a longer one when its receive is there, and is moved by ranks that are inside MPI (rendezvous)."""

    oversleep_s: float
    eager_nbytes: int

    def transfer(self, a: int, b: int, nbytes: int) -> Transfer:
        """A message from a to b that leaves now; those of one pair do not overtake each other."""

    def collective(self, kind: Any, ranks: Sequence[int], nbytes: int) -> simpy.Event:
        """The end of a collective at which all ranks have arrived now."""

    def message_cpu_s(self, nbytes: int) -> float:
        """What a rank computes to send or receive a message."""

    def pass_s(self, nbytes: int) -> float:
        """A pass over a buffer."""

    def nap_s(self, waited_s: float) -> float:
        """How much later than its end a wait that long is over for one who naps."""


class Place:
    """A rank of the world, for all its contexts and communicators: who polls there, and whether MPI is called."""

    def __init__(self, engine: Engine, number: int) -> None:
        self.number = number
        self._engine = engine
        self._inside = 0  # contexts inside of MPI
        self._expecting: list[Callable[[], None]] = []  # what waits for one of them
        self._pollers: list[simpy.Event] = []

    def __enter__(self) -> None:
        """A context calls MPI, which moves what is under way."""
        self._inside += 1
        if self._expecting:
            expecting, self._expecting = self._expecting, []
            for then in expecting:
                then()

    def __exit__(self, *_: object) -> None:
        self._inside -= 1

    def when_inside(self, then: Callable[[], None]) -> None:
        """Call `then` when a context of this rank is inside of MPI, be it now."""
        if self._inside:
            then()
        else:
            self._expecting.append(then)

    def tell(self) -> None:
        """Something has happened here for which somebody may poll."""
        if self._pollers:
            pollers, self._pollers = self._pollers, []
            for poller in pollers:
                poller.succeed()

    def news(self) -> simpy.Event:
        """What `tell` fires next."""
        poller = self._engine.env.event()
        self._pollers.append(poller)
        return poller


def all_inside(places: Sequence[Place], then: Callable[[], None]) -> None:
    """Call `then` when every one of the places has been inside of MPI, from now on."""
    left = len(places)

    def came() -> None:
        nonlocal left
        left -= 1
        if not left:
            then()

    for place in places:
        place.when_inside(came)


class Request:
    """One side of a message, or of a collective. `what` completes "waits for"; `cpu_s` is what the rank has to compute
    when it is over."""

    source = tag = -1
    nbytes = 0  # received
    truncated = False

    def __init__(self, engine: Engine, place: Place, what: str, cpu_s: float = 0.0) -> None:
        self._engine, self._place, self._what, self.cpu_s = engine, place, what, cpu_s
        self.over = False
        self.active = True  # until its end has been seen
        self._waiting: list[greenlet] = []

    def __str__(self) -> str:
        return self._what

    def complete(self) -> None:
        """In the loop, or where nobody waits yet."""
        self.over = True
        self._place.tell()
        for context in self._waiting:
            context.switch()

    def suspend(self) -> None:
        """Wait until it is over."""
        if not self.over:
            self._waiting.append(getcurrent())
            self._engine.pause(self)

    def finish(self, status: MPI.Status | None = None) -> None:
        """See that it is over. Raises MPI.Exception for a message that was longer than its buffer."""
        if self.truncated:
            raise MPI.Exception(MPI.ERR_TRUNCATE)
        if status is not None:
            status.source, status.tag = self.source, self.tag
            status.Set_elements(MPI.BYTE, self.nbytes)
        if self.active:
            self.active = False
            if self.cpu_s:
                self._engine.work(self.cpu_s)

    def Wait(self, status: MPI.Status | None = None) -> bool:
        with self._place:
            self.suspend()
        self.finish(status)
        return True

    def Test(self, status: MPI.Status | None = None) -> bool:
        with self._place:
            pass
        if self.over:
            self.finish(status)
        return self.over


class Receive(Request):
    """A posted receive into `buffer`, bytes. `cpu_s_of` says what a message of so many bytes takes."""

    number = 0  # of those posted at a mailbox

    def __init__(
        self,
        engine: Engine,
        place: Place,
        buffer: np.ndarray,
        source: int,
        tag: int,
        cpu_s_of: Callable[[int], float],
    ) -> None:
        super().__init__(engine, place, "a message")
        self.buffer, self.wants, self._cpu_s_of = buffer, (source, tag), cpu_s_of

    def __str__(self) -> str:
        source, tag = self.wants
        sender = "any rank" if source == MPI.ANY_SOURCE else f"rank {source}"
        tagged = "" if tag == MPI.ANY_TAG else f" with tag {tag}"
        return f"{self._what} of {sender}{tagged}"

    def accept(self, message: "Message") -> None:
        self.source, self.tag, self.nbytes = message.source, message.tag, len(message.data)
        self.cpu_s = self._cpu_s_of(self.nbytes)
        self.truncated = self.nbytes > len(self.buffer)
        if not self.truncated:
            self.buffer[: self.nbytes] = message.data
        self.complete()


class Message:
    """`data`, bytes, on their way from one place to another, `wire` as long. `request` is the sender's."""

    def __init__(
        self, network: Network, places: tuple[Place, Place], box: "Mailbox", source: int, tag: int, data: np.ndarray
    ) -> None:
        self._network, self._places, self._box = network, places, box
        self.source, self.tag, self.data = source, tag, data

    def send(self, wire: int, request: Request) -> None:
        """A short one leaves at once, and its buffer is free; of a long one there goes a word ahead."""
        self._wire, self._request = wire, request
        self._short = wire <= self._network.eager_nbytes
        if self._short:
            self.data = self.data.copy()
            request.over = True
        self._transfer(wire if self._short else 0).delivered.callbacks.append(self._arrived)

    def fits(self, source: int, tag: int) -> bool:
        return source in (self.source, MPI.ANY_SOURCE) and tag in (self.tag, MPI.ANY_TAG)

    def found(self, receive: Receive) -> None:
        """This receive gets it."""
        if self._short:
            receive.accept(self)
        else:
            all_inside(self._places, lambda: self._move(receive))

    def _arrived(self, _: simpy.Event) -> None:
        self._box.deliver(self)

    def _move(self, receive: Receive) -> None:
        transfer = self._transfer(self._wire)
        transfer.sent.callbacks.append(lambda _: self._request.complete())
        transfer.delivered.callbacks.append(lambda _: receive.accept(self))

    def _transfer(self, nbytes: int) -> Transfer:
        here, there = self._places
        return self._network.transfer(here.number, there.number, nbytes)


class Mailbox:
    """What has arrived at a rank in a communicator and is not yet received, and the receives that nothing has come for,
    both in order."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._arrived: list[Message] = []
        self._posted: dict[int, list[Receive]] = {}  # by the source that they want
        self._count = 0

    def probe(self, source: int, tag: int) -> Message | None:
        """The first one there is for such a receive."""
        for message in self._arrived:
            if message.fits(source, tag):
                return message
        return None

    def post(self, receive: Receive) -> None:
        message = self.probe(*receive.wants)
        if message:
            self._arrived.remove(message)
            message.found(receive)
        else:
            self._count += 1
            receive.number = self._count
            self._posted.setdefault(receive.wants[0], []).append(receive)

    def deliver(self, message: Message) -> None:
        """To the first of the receives that it fits."""
        receive = None
        for source in (message.source, MPI.ANY_SOURCE):
            for each in self._posted.get(source, ()):
                if message.fits(*each.wants):
                    if receive is None or each.number < receive.number:
                        receive = each
                    break
        if receive is None:
            self._arrived.append(message)
            self._place.tell()
            return
        queue = self._posted[receive.wants[0]]
        queue.remove(receive)
        if not queue:  # ranks have many neighbours, most of them quiet
            del self._posted[receive.wants[0]]
        message.found(receive)


class Meeting:
    """One collective of n ranks: what each of them brings, and its request."""

    def __init__(self, kind: str, n: int) -> None:
        self.kind, self.parts, self.requests = kind, list[Any]([None] * n), list[Request]()

    def come(self, kind: str, rank: int, part: Any, request: Request) -> bool:
        """Whether all are there now. Raises UserError where the others are at another collective."""
        if kind != self.kind:
            raise UserError(f"rank {rank} is at {kind} where others are at {self.kind}, collectives that do not meet")
        self.parts[rank] = part
        self.requests.append(request)
        return len(self.requests) == len(self.parts)

    def end(self, deliver: Callable[[list[Any]], None]) -> None:
        """It is over: `deliver` puts the result into the parts."""
        deliver(self.parts)
        for request in self.requests:
            request.complete()


class Round:
    """One neighbour allgather on a graph, in which nobody waits for all: each rank gets what it hears as soon as it and
    all whom it hears have come."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._missing = [1 + len(sources) for sources, _ in graph]
        self._sent: list[Any] = [None] * len(graph)
        self._receives: list[Any] = [None] * len(graph)

    def come(self, rank: int, data: np.ndarray, into: np.ndarray, request: Request) -> list[int]:
        """The ranks that can get all now."""
        self._sent[rank] = data.copy()  # a slow neighbour may get it later
        self._receives[rank] = into, request
        meant = (rank, *self._graph[rank][1])
        for other in meant:
            self._missing[other] -= 1
        return [other for other in meant if not self._missing[other]]

    def end(self, rank: int) -> None:
        """It is over for this rank, which gets what it hears in the order of its sources."""
        (into, request), sources = self._receives[rank], self._graph[rank][0]
        for number, source in enumerate(sources):
            into.reshape(len(sources), -1)[number] = self._sent[source]
        request.complete()
