"""The parameter server's two sides: which ranks serve, what of the model each holds, and how it answers messages.

The last ranks serve, so worker i is rank i everywhere. A worker sends its message and waits for the answers of the
servers, which wait for nobody; so no worker ever waits for another one.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from mpi4py import MPI

from outpace.comm.clock import wait, wait_some

LEAVE, MESSAGE, ANSWER = 0, 1, 2  # message tags


def exchanges(comm: MPI.Intracomm, workers: int, x: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Server: (worker, message) for every message of a worker, as they arrive, until all workers have left.

    What the caller leaves in `message`, of the shape and dtype of `x`, goes back to the worker with the tag ANSWER.
    Nothing is waited for but the next event: each worker has a buffer of its own, in which either its message or the
    answer to it is under way.
    """
    buffers = np.empty((workers, *x.shape), x.dtype)
    under_way = [comm.Irecv(buffer, worker) for worker, buffer in enumerate(buffers)]
    statuses = [MPI.Status() for _ in under_way]
    answering, present = [False] * workers, workers
    while present:
        for worker, status in zip(wait_some(comm, under_way, statuses), statuses, strict=False):
            if answering[worker]:
                under_way[worker] = comm.Irecv(buffers[worker], worker)
            elif status.tag == LEAVE:
                present -= 1
                continue
            else:
                yield worker, buffers[worker]
                under_way[worker] = comm.Isend(buffers[worker], worker, ANSWER)
            answering[worker] = not answering[worker]


def leave(comm: MPI.Intracomm, servers: Iterable[int]) -> None:
    """Worker: tell every server that no message will follow."""
    wait(comm, [comm.Isend([None, MPI.BYTE], server, LEAVE) for server in servers])
