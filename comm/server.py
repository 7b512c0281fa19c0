"""The parameter server's two sides: which ranks serve, what of the model each holds, and how it answers messages.

The last ranks serve, so worker i is rank i everywhere. A worker sends its message and waits for the answers of the
servers, which wait for nobody; so no worker ever waits for another one.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from outpace.comm.clock import wait, wait_some

LEAVE, MESSAGE, ANSWER = 0, 1, 2  # message tags


@dataclass(frozen=True)
class Layout:
    """Ranks 0 to workers - 1 compute, the `servers` after them serve; without servers every worker has a model."""

    workers: int
    servers: int = 0

    def held(self, dim: int) -> dict[int, slice]:
        """Who holds the model: each such rank with the slice of its vector that it has.

        >>> Layout(workers=4, servers=2).held(9)
        {4: slice(0, 4, None), 5: slice(4, 9, None)}
        >>> Layout(workers=2).held(9)
        {0: slice(0, 9, None), 1: slice(0, 9, None)}
        """
        if not self.servers:
            return dict.fromkeys(range(self.workers), slice(0, dim))
        cuts = [dim * s // self.servers for s in range(self.servers + 1)]
        return {self.workers + s: slice(cuts[s], cuts[s + 1]) for s in range(self.servers)}

    @property
    def ranks(self) -> int:
        return self.workers + self.servers

    @property
    def models(self) -> int:
        """How many whole models the slices make: one per worker, or the servers' one."""
        return 1 if self.servers else self.workers

    @property
    def desk(self) -> int:
        """The rank that hands out the shared budget: a server where there is one, else worker 0."""
        return self.workers if self.servers else 0


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
