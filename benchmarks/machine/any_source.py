"""Whether messages that are received from any source arrive between hosts, tried.

They do not with every MPI and transport (`transport`), and an asynchronous program would wait for them for ever.
"""

import os
from collections.abc import Callable
from typing import Final, cast

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.machine.transport import CHOICES, LIBFABRIC_TCP
from outpace.comm import agreement, clock, threads
from outpace.comm.errors import UserError

LIMIT_S: Final = 5.0  # for a few messages of 8 bytes
POSTED, THERE = 1, 2  # message tags: the receive is posted before the message comes, or after


def hosts(comm: MPI.Intracomm) -> MPI.Intracomm:
    """The first rank of each host, by MPI's own notion of a host; COMM_NULL on the other ranks. Collective."""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    first = comm.Split(0 if node.rank == 0 else MPI.UNDEFINED, comm.rank)
    node.Free()
    return cast(MPI.Intracomm, first)


def check(comm: MPI.Intracomm) -> None:
    """Raise UserError on every rank where messages from any source do not arrive between hosts in a second thread.

    Collective. Takes LIMIT_S where they do not, else some milliseconds, and nothing is sent on a single host.
    """
    first = hosts(comm)

    def exchange() -> None:
        if first == MPI.COMM_NULL or first.size == 1:
            return
        arrived: list[bool] = []
        threads.start(first, _exchange, first, arrived).join()
        if not all(arrived):
            raise UserError(f"between hosts, messages from any source do not arrive in a second thread; {_remedy()}")

    agreement.together(comm, exchange)
    if first != MPI.COMM_NULL:
        first.Free()


def _exchange(comm: MPI.Intracomm, arrived: list[bool]) -> None:
    """Two messages to each of the ranks 1, 2, 4, ... places on, as many from any source: whether each one arrived."""
    distances = [2**j for j in range((comm.size - 1).bit_length())]
    sent, buffers = np.zeros(1), np.zeros((len(distances), 1))
    posted = [comm.Irecv(buffer, MPI.ANY_SOURCE, POSTED) for buffer in buffers]
    clock.wait(comm, [comm.Ibarrier()])
    peers = [(comm.rank + distance) % comm.size for distance in distances]
    sends = [comm.Isend(sent, peer, tag) for peer in peers for tag in (POSTED, THERE)]
    deadline = clock.now(comm) + LIMIT_S

    def receive(request: MPI.Request) -> None:
        arrived.append(_until(comm, deadline, request.Test))
        if not arrived[-1]:
            request.Cancel()
            request.Wait()

    for request in posted:
        receive(request)
    for buffer in buffers:
        _until(comm, deadline, lambda: comm.Iprobe(MPI.ANY_SOURCE, THERE))
        receive(comm.Irecv(buffer, MPI.ANY_SOURCE, THERE))
    clock.wait(comm, sends)


def _until(comm: MPI.Intracomm, deadline: float, test: Callable[[], bool]) -> bool:
    """Whether the test came true before the deadline; it is made once in any case."""
    while not (true := test()) and clock.now(comm) < deadline:
        clock.sleep(comm, clock.SPIN_S)
    return true


def _remedy() -> str:
    version = MPI.Get_library_version()
    chosen = [f"{name}={os.environ[name]}" for name in CHOICES if name in os.environ]
    tcp = [f"{name}={value}" for name, value in LIBFABRIC_TCP.items()]
    if "ch4:" not in version or "ofi" not in version or set(tcp) <= set(chosen):
        return "choose another transport of this MPI"
    settings = " ".join(tcp)
    return f"set {settings}" + (f" in place of {' '.join(chosen)}" if chosen else ", as `outpace run` does")
