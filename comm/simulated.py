"""Ranks in simulated time: communicators with mpi4py's methods, for any number of ranks in one process.

A program gets one of these in place of MPI's, and cannot tell: messages, collectives and threads do what they do under
MPI, on real data, but clocks, sleeps and waits are those of the `Engine`, and how long messages take says a `Network`.
`World(n, network).run(target)` runs `target(comm)` on n ranks.

What there is, is what the suite's programs use. Anything else of MPI's says that it is not simulated.
"""

import copy
import functools
import pickle
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, TypeVar

import numpy as np
import simpy
from mpi4py import MPI

from outpace.comm.clock import SPIN_S, UNDER_WAY_SPIN_S, Offset
from outpace.comm.errors import UserError
from outpace.comm.events import Channel, Context, Engine, Flag, Lock
from outpace.comm.matching import (
    EAGER_NBYTES,
    Graph,
    Mailbox,
    Meeting,
    Message,
    Network,
    Place,
    Receive,
    Request,
    Round,
    all_inside,
)
from outpace.comm.meter import Counting, CountingNeighbours, Meter

T = TypeVar("T")
M = TypeVar("M")  # a meeting or a round

NOTHING: Final = np.empty(0, np.uint8)
REDUCTIONS: Final = [  # MPI's operations cannot be keys
    (MPI.SUM, np.add),
    (MPI.PROD, np.multiply),
    (MPI.MAX, np.maximum),
    (MPI.MIN, np.minimum),
    (MPI.BAND, np.bitwise_and),
    (MPI.BOR, np.bitwise_or),
    (MPI.BXOR, np.bitwise_xor),
    (MPI.LAND, np.logical_and),
    (MPI.LOR, np.logical_or),
]


class NotSimulated(UserError, AttributeError):
    """A method of MPI's that a simulated communicator does not have."""


class World:
    """n ranks and what is between them. `network` makes that on a SimPy environment."""

    def __init__(self, n: int, network: Callable[[simpy.Environment], Network]) -> None:
        self.engine = Engine()
        self.network = network(self.engine.env)
        self.places = [Place(self.engine, rank) for rank in range(n)]
        self.cpu_s = functools.cache(self._cpu_s)  # of a message, by its bytes, of which there are few sizes

    def run(self, target: Callable[..., T], *args: Any, kind: "type[SimulatedComm] | None" = None) -> list[T]:
        """`target(comm, *args)` on every rank, each with a communicator of all, of this kind; what they returned.

        Raises what any of them raised first, and Deadlock."""
        group = Group(self, self.places)
        comms = [(kind or SimulatedComm)(group, place.number) for place in self.places]

        @functools.wraps(target)
        def whole(comm: "SimulatedComm") -> T:
            result = target(comm, *args)
            # A real rank then waits in MPI for the others, and moves what they have not received yet.
            self.places[comm.rank].__enter__()
            return result

        contexts = [self.engine.spawn(comm.rank, whole, comm) for comm in comms]
        self.engine.run()
        return [context.ended.value for context in contexts]  # type: ignore[misc]

    def _cpu_s(self, nbytes: int) -> float:
        return self.network.message_cpu_s(nbytes) + self.network.pass_s(nbytes)


class Group:
    """What the ranks of one communicator share. `graph` has the sources and destinations of each, where it is one."""

    def __init__(self, world: World, places: Sequence[Place], graph: Graph = ()) -> None:
        self.world, self.places, self.graph = world, places, graph
        self.mailboxes = [Mailbox(place) for place in places]
        self._calls = [0] * len(places)  # of collectives, by rank: those of one number are one
        self._meetings: dict[int, tuple[Any, int]] = {}  # by number, and how many have not come

    def next(self, rank: int, make: Callable[[], M]) -> M:
        """This rank's next collective, made by the first that comes to it and forgotten after the last."""
        number = self._calls[rank]
        self._calls[rank] += 1
        meeting, left = self._meetings.pop(number, None) or (make(), len(self.places))
        if left > 1:
            self._meetings[number] = meeting, left - 1
        return meeting


class Simulated:
    """What a rank has of a group, uncounted: MPI's methods, and the clock, sleep, threads and locks of `clock` and
    `threads`, which ask the communicator for them."""

    def __init__(self, group: Group, rank: int) -> None:
        self.group, self.rank, self.size = group, rank, len(group.places)
        self.place, self.wire_scale = group.places[rank], 1.0
        self._engine, self._network = group.world.engine, group.world.network
        self._env = self._engine.env

    def __getattr__(self, name: str) -> NoReturn:
        if hasattr(MPI.Comm, name) or hasattr(MPI.Intracomm, name) or hasattr(MPI.Distgraphcomm, name):
            raise NotSimulated(f"{name} of a communicator is not simulated; `outpace run` without --simulate has it")
        raise AttributeError(f"a communicator has no {name}")

    def scaled(self, factor: float) -> "Simulated":
        """This communicator, for messages that take as long as if they were so many times as large."""
        scaled = copy.copy(self)
        scaled.wire_scale = factor
        return scaled

    def Get_rank(self) -> int:
        return self.rank

    def Get_size(self) -> int:
        return self.size

    def Free(self) -> None:
        """Nothing is held by it."""

    # Messages

    def Isend(self, buf: Any, dest: int, tag: int = 0) -> Request:
        data = _bytes(buf)
        wire = self._wire(data)
        self._engine.sleep(self._cpu_s(data.nbytes))  # with what is still to be done
        box, places = self.group.mailboxes[self._rank(dest)], (self.place, self.group.places[dest])
        request = Request(self._engine, self.place, f"rank {dest} to receive its message with tag {tag}")
        Message(self._network, places, box, self.rank, tag, data).send(wire, request)
        return request

    def Irecv(self, buf: Any, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG) -> Request:
        buffer = _bytes(buf)
        if source != MPI.ANY_SOURCE:
            self._rank(source)
        receive = Receive(self._engine, self.place, buffer, source, tag, self._cpu_s)
        self.group.mailboxes[self.rank].post(receive)
        return receive

    def Send(self, buf: Any, dest: int, tag: int = 0) -> None:
        Simulated.Isend(self, buf, dest, tag).Wait()

    def Recv(
        self,
        buf: Any,
        source: int = MPI.ANY_SOURCE,
        tag: int = MPI.ANY_TAG,
        status: MPI.Status | None = None,
    ) -> None:
        self.Irecv(buf, source, tag).Wait(status)

    def Sendrecv(
        self,
        sendbuf: Any,
        dest: int,
        sendtag: int = 0,
        recvbuf: Any = None,
        source: int = MPI.ANY_SOURCE,
        recvtag: int = MPI.ANY_TAG,
        status: MPI.Status | None = None,
    ) -> None:
        receive = self.Irecv(recvbuf, source, recvtag)
        Simulated.Isend(self, sendbuf, dest, sendtag).Wait()
        receive.Wait(status)

    def Iprobe(self, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG, status: MPI.Status | None = None) -> bool:
        with self.place:
            message = self.group.mailboxes[self.rank].probe(source, tag)
        if message and status is not None:
            status.source, status.tag = message.source, message.tag
            status.Set_elements(MPI.BYTE, len(message.data))
        return message is not None

    # Collectives of buffers

    def Barrier(self) -> None:
        self.Ibarrier().Wait()

    def Ibarrier(self) -> Request:
        return self._collective("barrier", 0, None, lambda parts: None)

    def Bcast(self, buf: Any, root: int = 0) -> None:
        def deliver(parts: list[np.ndarray]) -> None:
            for rank, part in enumerate(parts):
                if rank != root:
                    part[:] = parts[root]

        data = _bytes(buf)
        self._collective("bcast", self._wire(data), data, deliver).Wait()

    def Gather(self, sendbuf: Any, recvbuf: Any, root: int = 0) -> None:
        def deliver(parts: list[tuple[np.ndarray, np.ndarray]]) -> None:
            np.concatenate([sent for sent, _ in parts], out=parts[root][1])

        own = _bytes(sendbuf)
        into = _bytes(recvbuf) if self.rank == root else own
        self._collective("gather", self._wire(own), (own, into), deliver).Wait()

    def Allgather(self, sendbuf: Any, recvbuf: Any) -> None:
        def deliver(parts: list[tuple[np.ndarray, np.ndarray]]) -> None:
            everyones = np.concatenate([own for own, _ in parts])
            for _, into in parts:
                into[:] = everyones

        into = _bytes(recvbuf)
        own = into.reshape(self.size, -1)[self.rank] if sendbuf is MPI.IN_PLACE else _bytes(sendbuf)
        self._collective("allgather", self._wire(own), (own, into), deliver).Wait()

    def Alltoall(self, sendbuf: Any, recvbuf: Any) -> None:
        def deliver(parts: list[tuple[np.ndarray, np.ndarray]]) -> None:
            blocks = np.stack([own.reshape(len(parts), -1) for own, _ in parts])  # [sender, receiver]
            for rank, (_, into) in enumerate(parts):
                into[:] = blocks[:, rank].ravel()

        into = _bytes(recvbuf)
        own = into if sendbuf is MPI.IN_PLACE else _bytes(sendbuf)
        self._collective("alltoall", self._wire(own) // self.size, (own, into), deliver).Wait()

    def Allreduce(self, sendbuf: Any, recvbuf: Any, op: MPI.Op = MPI.SUM) -> None:
        Simulated.Iallreduce(self, sendbuf, recvbuf, op).Wait()

    def Iallreduce(self, sendbuf: Any, recvbuf: Any, op: MPI.Op = MPI.SUM) -> Request:
        ufunc = next((ufunc for known, ufunc in REDUCTIONS if known == op), None)
        if ufunc is None:
            raise NotSimulated("an operation of one's own is not simulated in Allreduce")

        def deliver(parts: list[tuple[np.ndarray, np.ndarray]]) -> None:
            total = parts[0][0].copy()
            for own, _ in parts[1:]:  # in the order of the ranks, whoever came first
                ufunc(total, own, out=total)
            for _, into in parts:
                into[:] = total

        into = _numbers(recvbuf)
        own = into if sendbuf is MPI.IN_PLACE else _numbers(sendbuf)
        return self._collective("allreduce", self._wire(own), (own, into), deliver)

    # Collectives of objects, of which everybody gets a copy

    def bcast(self, obj: Any = None, root: int = 0) -> Any:
        return self._objects("bcast", obj if self.rank == root else None)[root]

    def scatter(self, obj: Any, root: int = 0) -> Any:
        return self._objects("gather", obj if self.rank == root else None)[root][self.rank]  # as a gather, backwards

    def gather(self, obj: Any, root: int = 0) -> list[Any] | None:
        everyones = self._objects("gather", obj)
        return everyones if self.rank == root else None

    def allgather(self, obj: Any) -> list[Any]:
        return self._objects("allgather", obj)

    def allreduce(self, obj: Any, op: MPI.Op = MPI.SUM) -> Any:
        return functools.reduce(op, self._objects("allreduce", obj))

    def _objects(self, kind: str, obj: Any) -> list[Any]:
        """The objects of all ranks."""

        def deliver(parts: list[tuple[Any, list[Any]]]) -> None:
            everyones = pickle.dumps([own for own, _ in parts])
            for _, into in parts:
                into.append(everyones)

        into: list[bytes] = []
        self._collective(kind, 0, (obj, into), deliver).Wait()
        return list(pickle.loads(into[0]))

    # Communicators

    def Dup(self, info: Any = None) -> Any:
        return self._made(None, lambda values: [Group(self.group.world, self.group.places)] * len(values))

    def Split(self, color: int = 0, key: int = 0) -> Any:
        """With a meter of its own."""

        def groups(values: list[tuple[int, int]]) -> list[Group | None]:
            order = sorted(range(len(values)), key=lambda rank: (values[rank][1], rank))
            made: dict[int, Group] = {}
            for color in {color for color, _ in values} - {MPI.UNDEFINED}:
                places = [self.group.places[rank] for rank in order if values[rank][0] == color]
                made[color] = Group(self.group.world, places)
            return [made.get(color) for color, _ in values]

        part = self._made((color, key), groups)
        if part.group is None:
            return MPI.COMM_NULL
        part.meter = Meter(part.size)
        return part

    def Create_dist_graph_adjacent(self, sources: Sequence[int], destinations: Sequence[int], **_: Any) -> Any:
        made = self._made(
            ([int(rank) for rank in sources], [int(rank) for rank in destinations]),
            lambda values: [Group(self.group.world, self.group.places, values)] * len(values),
        )
        return SimulatedGraph(made)

    def _made(self, value: Any, make: Callable[[list[Any]], Sequence[Group | None]]) -> Any:
        """This communicator with the group that `make` has for its rank, from the values of all; collective."""

        def deliver(parts: list[tuple[Any, list[Group | None]]]) -> None:
            for (_, found), group in zip(parts, make([value for value, _ in parts]), strict=True):
                found.append(group)

        found: list[Group | None] = []
        self._collective("barrier", 0, (value, found), deliver).Wait()
        made: Any = copy.copy(self)
        made.group = group = found[0]
        if group is not None:
            made.rank, made.size = group.places.index(self.place), len(group.places)
        return made

    # Time and threads, by `clock` and `threads`

    def now(self) -> float:
        return self._env.now

    def sleep(self, seconds: float) -> None:
        self._engine.sleep(seconds + self._network.oversleep_s)

    def wait(
        self,
        requests: Sequence[Request],
        statuses: list[MPI.Status] | None = None,
        under_way: bool = False,
        idle: bool = False,
    ) -> None:
        requests, start = list(requests), self._env.now
        with self.place:
            for request in requests:
                if not request.over:
                    request.suspend()
        self._nap(start, UNDER_WAY_SPIN_S if under_way else SPIN_S)
        for number, request in enumerate(requests):
            request.finish(statuses[number] if statuses else None)

    def wait_some(self, requests: list[Request], statuses: list[MPI.Status]) -> list[int]:
        done = self.poll(lambda: [number for number, one in enumerate(requests) if one.over and one.active])
        for number, status in zip(done, statuses, strict=False):
            requests[number].finish(status)
        return done

    def poll(self, test: Callable[[], T | None], idle: bool = False) -> T:
        start = self._env.now
        with self.place:
            while not (result := test()):
                self._engine.wait(self.place.news(), "a message or a word of its own threads")
        self._nap(start, SPIN_S)
        return result

    def offset(self, read: Callable[[], float] | None = None) -> Offset:
        """There is one clock."""
        return Offset(self.now(), 0.0, 0.0)

    def start(self, target: Callable[..., None], *args: Any) -> Context:
        return self._engine.spawn(self.place.number, target, *args)

    def abort(self, cause: str, code: int) -> NoReturn:
        raise UserError(f"rank {self.place.number}: {cause}")

    def lock(self) -> Lock:
        return Lock(self._engine)

    def channel(self) -> Channel:
        return Channel(self._engine, self.place.tell)

    def event(self) -> Flag:
        return Flag(self._engine)

    # Inside

    def _rank(self, rank: int) -> int:
        """A rank that there is. Raises MPI.Exception."""
        if not 0 <= rank < self.size:
            raise MPI.Exception(MPI.ERR_RANK)
        return int(rank)

    def _wire(self, data: np.ndarray) -> int:
        """The bytes as which the data counts on its way."""
        return round(data.nbytes * self.wire_scale)

    def _cpu_s(self, nbytes: int) -> float:
        """What sending or receiving a message takes of the rank, which also looks through it once."""
        return self.group.world.cpu_s(round(nbytes * self.wire_scale))

    def _nap(self, start: float, spin_s: float) -> None:
        """Sleep on, as who naps in a wait that began at `start`."""
        waited_s = self._env.now - start
        if waited_s > spin_s:
            self._engine.sleep(self._network.nap_s(waited_s))

    def _collective(self, kind: str, nbytes: int, part: Any, deliver: Callable[[list[Any]], None]) -> Request:
        """Come to a collective with this part. When all are there, and it is over, `deliver` gets the parts of all, by
        rank, and puts the result into them."""
        places = self.group.places
        request = self._request(f"the others at {kind}", nbytes)
        meeting = self.group.next(self.rank, lambda: Meeting(kind, len(places)))
        if meeting.come(kind, self.rank, part, request):
            self._under_way(kind, places, nbytes, EAGER_NBYTES, lambda: meeting.end(deliver))
        return request

    def _request(self, what: str, nbytes: int) -> Request:
        return Request(self._engine, self.place, what, self._network.pass_s(nbytes))

    def _under_way(self, kind: str, places: Sequence[Place], nbytes: int, eager: int, over: Callable[[], None]) -> None:
        """All are there: call `over` when it is over. More bytes than `eager` are moved by ranks inside MPI."""

        def start() -> None:
            event = self._network.collective(kind, [place.number for place in places], nbytes)
            event.callbacks.append(lambda _: over())

        if len(places) == 1:
            over()
        elif nbytes > eager:
            all_inside(places, start)
        else:
            start()


class Neighbours(Simulated):
    """The same of a graph communicator."""

    def Get_dist_neighbors(self) -> tuple[Sequence[int], Sequence[int], None]:
        return *self.group.graph[self.rank], None

    def Ineighbor_allgather(self, sendbuf: Any, recvbuf: Any) -> Request:
        group, own = self.group, _bytes(sendbuf)
        nbytes = self._wire(own)
        request = self._request("its neighbours", nbytes * len(group.graph[self.rank][0]))
        round = group.next(self.rank, lambda: Round(group.graph))

        for rank in round.come(self.rank, own, _bytes(recvbuf), request):
            places = [group.places[other] for other in (rank, *group.graph[rank][0])]
            ended = functools.partial(round.end, rank)
            self._under_way("neighbor_allgather", places, nbytes, self._network.eager_nbytes, ended)
        return request


class SimulatedComm(Counting, Simulated):
    """A simulated communicator that counts, as `MeteredComm` does."""

    def __init__(self, group: Group, rank: int) -> None:
        super().__init__(group, rank)
        self.meter = Meter(self.size)


class SimulatedGraph(CountingNeighbours, Neighbours):
    """A simulated graph communicator that counts, as `MeteredGraph` does, on the meter of `made`."""

    def __init__(self, made: Any) -> None:
        super().__init__(made.group, made.rank)
        self.meter, self.wire_scale = made.meter, made.wire_scale
        self.sources, self.destinations = self.group.graph[self.rank]


def _numbers(buf: Any) -> np.ndarray:
    """The elements of a buffer argument, flat, in its memory."""
    array = np.asarray(buf[0] if type(buf) in (list, tuple) else buf)
    if not array.flags.c_contiguous:
        raise BufferError("ndarray is not C-contiguous")  # as mpi4py has it
    return array.reshape(-1)


def _bytes(buf: Any) -> np.ndarray:
    """The bytes of a buffer argument, an array, `[array, type]`, `[array, count, type]` or one of None."""
    if buf is None or (type(buf) in (list, tuple) and buf[0] is None):
        return NOTHING
    data = _numbers(buf).view(np.uint8)
    if type(buf) in (list, tuple) and len(buf) == 3:
        return data[: int(buf[1]) * buf[2].Get_size()]
    return data
