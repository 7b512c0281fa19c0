"""The parameter server's two sides: which ranks serve, what of the model each holds, and how it answers messages.

The last ranks serve, so worker i is rank i everywhere. A worker sends its message and waits for the answers of the
servers, which wait for nobody; so no worker ever waits for another one.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from mpi4py import MPI

from outpace.comm.clock import wait, wait_some

LEAVE, MESSAGE, ANSWER = 0, 1, 2  # message tags


class Mailbox:
    """Server: a buffer for each worker, of the shape and dtype of `x`, in which its message comes in and the answer to
    it goes out. Between the two the worker waits, and nothing is under way."""

    def __init__(self, comm: MPI.Intracomm, workers: int, x: np.ndarray) -> None:
        self._comm = comm
        self.buffers = np.empty((workers, *x.shape), x.dtype)
        self._under_way = [comm.Irecv(buffer, worker) for worker, buffer in enumerate(self.buffers)]
        self._answers: list[int | None] = [None] * workers  # the tag of what goes out; None where a message comes in

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(worker, tag) of every message, as they arrive, until all workers have left or were told to leave. Nothing is
        waited for but the next event."""
        statuses = [MPI.Status() for _ in self._under_way]
        present = len(self._under_way)
        while present:
            for worker, status in zip(wait_some(self._comm, self._under_way, statuses), statuses, strict=False):
                answer = self._answers[worker]
                if answer is None and status.tag != LEAVE:
                    yield worker, status.tag
                elif answer == ANSWER:
                    self._expect(worker)
                else:
                    present -= 1

    def answer(self, worker: int, tag: int = ANSWER) -> None:
        """Send the worker what is in its buffer; with the tag LEAVE no message of it will follow."""
        sending = self._comm.Isend(self.buffers[worker], worker, tag)
        if tag == ANSWER and sending.Test():  # as a short one has, at once
            self._expect(worker)
        else:
            self._answers[worker], self._under_way[worker] = tag, sending

    def _expect(self, worker: int) -> None:
        """Its next message may come in."""
        self._answers[worker] = None
        self._under_way[worker] = self._comm.Irecv(self.buffers[worker], worker)


def exchanges(comm: MPI.Intracomm, workers: int, x: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Server: (worker, message) for every message of a worker, as they arrive, until all workers have left.

    What the caller leaves in `message` goes back to the worker at once.
    """
    mailbox = Mailbox(comm, workers, x)
    for worker, _ in mailbox:
        yield worker, mailbox.buffers[worker]
        mailbox.answer(worker)


def ask(comm: MPI.Intracomm, slices: Mapping[int, slice], message: Any, answer: Any) -> None:
    """Worker: send every server its slice of `message`, and wait for its slice of `answer`; both of shape (dim,)."""
    answers = [comm.Irecv(answer[part], server, ANSWER) for server, part in slices.items()]
    wait(comm, answers + [comm.Isend(message[part], server, MESSAGE) for server, part in slices.items()])


def leave(comm: MPI.Intracomm, servers: Iterable[int]) -> None:
    """Worker: tell every server that no message will follow."""
    wait(comm, [comm.Isend([None, MPI.BYTE], server, LEAVE) for server in servers])
