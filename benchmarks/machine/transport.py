"""What carries messages between hosts: a choice that works for the mpich wheel, and a check of any choice.

Left to itself the wheel's MPICH takes UCX, over which it loses messages that are received from any source, and the
program that waits for one hangs. docs/transports.md has the cause, a program that shows it, and other cures.
"""

import os
from collections.abc import Callable, Mapping
from typing import Final, cast

import numpy as np
from mpi4py import MPI

from outpace.comm import agreement, clock, threads
from outpace.comm.errors import UserError

LIBFABRIC_TCP: Final = {"MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp"}
CHOICES: Final = (*LIBFABRIC_TCP, "UCX_TLS")  # whoever has set one of these has chosen a transport
# By these the launcher may reach other hosts: a line of the user's own, or where Hydra looks for hosts.
ELSEWHERE: Final = (
    *("OUTPACE_LAUNCHER", "HYDRA_HOST_FILE", "SLURM_JOB_ID"),
    *("PBS_NODEFILE", "PE_HOSTFILE", "LSB_HOSTS", "LSB_MCPU_HOSTS", "COBALT_NODEFILE"),
)
WHEEL: Final = "https://pypi.org/p/mpich/"  # in what the wheel's library says of itself
LIMIT_S: Final = 10.0  # for a few messages of 8 bytes
POSTED, THERE = 1, 2  # message tags: the receive is posted before the message comes, or after


def default(environment: Mapping[str, str], elsewhere: bool = False) -> dict[str, str]:
    """What to add to the environment of ranks: LIBFABRIC_TCP for the wheel's MPI, nothing where the user has chosen.

    Nothing either where all ranks will be on this host, unless `elsewhere` says better: MPI looks at it all the time,
    which costs 0.3 us a message there and brings nothing.
    """
    chosen = any(name in environment for name in CHOICES)
    here = environment.get("SLURM_JOB_NUM_NODES") == "1" or not any(name in environment for name in ELSEWHERE)
    if chosen or WHEEL not in MPI.Get_library_version() or (here and not elsewhere):
        return {}
    return LIBFABRIC_TCP


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
    if "MPICH" not in MPI.Get_library_version():
        return "choose another transport of this MPI"
    settings = " ".join(f"{name}={value}" for name, value in LIBFABRIC_TCP.items())
    chosen = [f"{name}={os.environ[name]}" for name in CHOICES if name in os.environ]
    return f"set {settings}" + (f" in place of {' '.join(chosen)}" if chosen else ", as `outpace run` does")
