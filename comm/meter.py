"""A communicator that counts what this rank sends, to whom, where it is sent.

Point-to-point and neighbour messages are charged to their destination. A collective is charged the lower bound
of its payload as a ring would send it, to the next rank (B bytes per rank, n ranks):

    Allreduce   2(n-1)/n B in 2(n-1) messages      Allgather  (n-1) B in n-1 messages
    Alltoall    its n-1 blocks, to their receivers           Bcast      B, handed on along the chain of ranks
    Gather      B, to the root
"""

import functools
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from outpace.comm.nccl import ByNccl

if TYPE_CHECKING:
    Communicator = Any
else:
    Communicator = object  # what counts is mixed into MPI's communicators and into simulated ones


class Meter:
    """Messages and payload bytes that this rank has sent to each rank, shape (n,) each."""

    def __init__(self, n: int) -> None:
        self.messages = np.zeros(n, dtype=np.int64)
        self.nbytes = np.zeros(n, dtype=np.int64)
        # The same memory, whose numbers are Python's: NumPy makes a scalar of its own for each look at one.
        self._messages, self._nbytes = self.messages.data, self.nbytes.data
        self._lock = threading.Lock()  # the gradient loop and the communication thread both send

    def sent(self, destination: int, nbytes: int, messages: int = 1) -> None:
        with self._lock:
            self._messages[destination] += messages
            self._nbytes[destination] += nbytes

    def reset(self) -> None:
        with self._lock:
            self.messages[:] = 0
            self.nbytes[:] = 0


@functools.lru_cache
def of_allreduce(nbytes: int, rank: int, n: int) -> int:
    """Bytes that one of n ranks sends in an Allreduce of so many, as a ring does it.

    Every chunk but one is sent while reducing and again while gathering. A chunk is nbytes / n, rounded so that the n
    of them make nbytes: the sum over the ranks is 2 (n - 1) nbytes, to the byte.

    >>> [of_allreduce(100, rank, 3) for rank in range(3)]
    [134, 134, 132]
    """
    return 2 * (nbytes - (nbytes * (rank + 1) // n - nbytes * rank // n))


def payload(buffer: Any) -> int:
    """Bytes of an MPI buffer argument: an array, `[array, type]`, `[array, count, type]` or None."""
    if buffer is None:
        return 0
    if type(buffer) in (list, tuple):
        array, *_, datatype = buffer
        if len(buffer) == 3:
            return int(buffer[1]) * int(datatype.Get_size())
        return payload(array)
    return int(buffer.nbytes)


class Counting(Communicator):
    """What is counted of a communicator's messages and collectives, on its `meter`, before they are sent."""

    meter: Meter

    def Send(self, buf: Any, dest: int, tag: int = 0) -> None:
        self.meter.sent(dest, payload(buf))
        super().Send(buf, dest, tag)

    def Isend(self, buf: Any, dest: int, tag: int = 0) -> Any:
        self.meter.sent(dest, payload(buf))
        return super().Isend(buf, dest, tag)

    def Sendrecv(self, sendbuf: Any, dest: int, *args: Any, **kwargs: Any) -> None:
        self.meter.sent(dest, payload(sendbuf))
        super().Sendrecv(sendbuf, dest, *args, **kwargs)

    def Allreduce(self, sendbuf: Any, recvbuf: Any, op: MPI.Op = MPI.SUM) -> None:
        self._charge_allreduce(recvbuf)
        super().Allreduce(sendbuf, recvbuf, op)

    def Iallreduce(self, sendbuf: Any, recvbuf: Any, op: MPI.Op = MPI.SUM) -> Any:
        self._charge_allreduce(recvbuf)
        return super().Iallreduce(sendbuf, recvbuf, op)

    def Allgather(self, sendbuf: Any, recvbuf: Any) -> None:
        n = self.size
        block = payload(recvbuf) // n
        if n > 1:
            self.meter.sent((self.rank + 1) % n, (n - 1) * block, n - 1)
        super().Allgather(sendbuf, recvbuf)

    def Alltoall(self, sendbuf: Any, recvbuf: Any) -> None:
        block = payload(recvbuf) // self.size
        for rank in range(self.size):
            if rank != self.rank:
                self.meter.sent(rank, block)
        super().Alltoall(sendbuf, recvbuf)

    def Gather(self, sendbuf: Any, recvbuf: Any, root: int = 0) -> None:
        if self.rank != root:
            self.meter.sent(root, payload(sendbuf))
        super().Gather(sendbuf, recvbuf, root)

    def Bcast(self, buf: Any, root: int = 0) -> None:
        follower = (self.rank + 1) % self.size
        if follower != root:
            self.meter.sent(follower, payload(buf))
        super().Bcast(buf, root)

    def _charge_allreduce(self, recvbuf: Any) -> None:
        rank, n = self.rank, self.size
        if n > 1:
            self.meter.sent((rank + 1) % n, of_allreduce(payload(recvbuf), rank, n), 2 * (n - 1))


class CountingNeighbours(Communicator):
    """The same of a graph communicator, whose neighbour messages are charged to their `destinations`."""

    meter: Meter
    sources: Sequence[int]
    destinations: Sequence[int]

    def Ineighbor_allgather(self, sendbuf: Any, recvbuf: Any) -> Any:
        """Of device arrays by messages from point to point: an MPI that reads device memory does so in these, while
        Open MPI does in no non-blocking collective, but with UCX."""
        nbytes = payload(sendbuf)
        for destination in self.destinations:
            self.meter.sent(destination, nbytes)
        if isinstance(recvbuf, np.ndarray):
            return super().Ineighbor_allgather(sendbuf, recvbuf)
        arrivals = [self.Irecv(block, source) for block, source in zip(recvbuf, self.sources, strict=True)]
        return Requests([*arrivals, *(self.Isend(sendbuf, destination) for destination in self.destinations)])


class MeteredComm(Counting, ByNccl):
    """An intracommunicator with a `meter`. `Dup` and the graph communicators made from it share that meter."""

    def __new__(cls, comm: MPI.Intracomm, meter: Meter | None = None) -> "MeteredComm":
        self = super().__new__(cls, comm)
        self.meter = meter or Meter(comm.size)
        return self

    def Dup(self, info: MPI.Info | None = None) -> "MeteredComm":
        return MeteredComm(MPI.Intracomm(self).Dup(info), self.meter)

    def Create_dist_graph_adjacent(self, *args: Any, **kwargs: Any) -> "MeteredGraph":
        return MeteredGraph(super().Create_dist_graph_adjacent(*args, **kwargs), self.meter)


class MeteredGraph(CountingNeighbours, MPI.Distgraphcomm):
    """A distributed-graph communicator that charges each neighbour message to its destination."""

    def __new__(cls, graph: MPI.Distgraphcomm, meter: Meter) -> "MeteredGraph":
        self = super().__new__(cls, graph)
        self.meter = meter
        self.sources, self.destinations, _ = graph.Get_dist_neighbors()
        return self


class Requests:
    """Requests that complete together."""

    def __init__(self, requests: Sequence[MPI.Request]) -> None:
        self._requests = list(requests)

    def Wait(self) -> None:
        MPI.Request.Waitall(self._requests)
