"""The asynchronous-progress certificate: how long a message waits for a rank that computes, with this MPI and launch.

An asynchronous program answers messages in a thread beside its computation. That thread needs a core, the GIL, and an
MPI that moves data when it is called from there. Here a rank computes with such a thread beside it, another one
sends it messages, and the round trips are timed. Where they take more than PROMPT_S the answers come late, however
wait-free the algorithm is.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from mpi4py import MPI

from outpace.comm import clock, threads

PROMPT_S: Final = 5e-3  # Python's switch interval: an answer that takes longer stood behind a computation
PINGS: Final = 10  # under each load; where many ranks share a core fewer, ...
LEAST_PINGS: Final = 3  # ... as many as come within LIMIT_S, and at least so many
LIMIT_S: Final = 0.5
PAUSE_S: Final = 3e-3  # between two pings, so that they meet the computation at all stages
STRETCH_S: Final = 10e-3  # of work at a time, about, in the loads below
PING, PONG, OVER = 1, 2, 3  # message tags

Load = Callable[[], object]


def loads(comm: MPI.Intracomm) -> dict[str, Load]:
    """What a rank may be doing when a message comes, in stretches of about STRETCH_S."""
    A = np.ones((600, 600))
    B = np.empty_like(A)
    return {
        "numpy": lambda: np.matmul(A, A, out=B),  # releases the GIL
        "sleep": lambda: clock.sleep(comm, STRETCH_S),
        "gil": lambda: sum(range(300_000)),  # one call into C that does not
    }


def waits(comm: MPI.Intracomm, loads: Sequence[Load | None], target: int, prober: int) -> list[float]:
    """Median round trip in seconds of a message from `prober` to `target` under each load.

    All ranks but the prober are under that load, as in a run, save those that have None for it, as servers do.
    Collective over comm, with the same result on every rank.
    """
    return [clock.median(_probe(comm, load, target, prober)) for load in loads]


def verdict(wait_s: float) -> str:
    """What a run with this median round trip is called.

    >>> verdict(0.0004), verdict(0.03)
    ('wait-free', 'progress-limited')
    """
    return "wait-free" if wait_s <= PROMPT_S else "progress-limited"


def _probe(comm: MPI.Intracomm, load: Load | None, target: int, prober: int) -> list[float]:
    comm = comm.Dup()
    trips: list[float] = []
    if comm.rank == target:
        answering = threads.start(comm, _answer, comm, prober)
        while answering.is_alive() and load:
            load()
        answering.join()
        over = comm.Ibarrier()
    elif comm.rank == prober:
        _ask(comm, target, trips)
        over = comm.Ibarrier()
    else:
        over = comm.Ibarrier()
        while load and not over.Test():
            load()
    clock.wait(comm, [over])
    trips = comm.bcast(trips, prober)
    comm.Free()
    return trips


def _ask(comm: MPI.Intracomm, target: int, trips: list[float]) -> None:
    ping, pong = np.zeros(1), np.zeros(1)
    deadline = clock.now(comm) + LIMIT_S
    while len(trips) < PINGS and (len(trips) < LEAST_PINGS or clock.now(comm) < deadline):
        clock.sleep(comm, PAUSE_S)
        start = clock.now(comm)
        clock.wait(comm, [comm.Irecv(pong, target, PONG), comm.Isend(ping, target, PING)])
        trips.append(clock.now(comm) - start)
    clock.wait(comm, [comm.Isend(ping, target, OVER)])


def _answer(comm: MPI.Intracomm, prober: int) -> None:
    ping, status = np.zeros(1), MPI.Status()
    while True:
        clock.wait(comm, [comm.Irecv(ping, prober)], [status])
        if status.tag == OVER:
            break
        clock.wait(comm, [comm.Isend(ping, prober, PONG)])
