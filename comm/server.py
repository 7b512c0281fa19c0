"""The parameter server's two sides: which ranks serve, what of the model each holds, and how it answers messages.

The last ranks serve, so worker i is rank i everywhere. A worker sends its message and waits for the answers of the
servers, which wait for nobody; so no worker ever waits for another one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from mpi4py import MPI

from outpace.comm.clock import wait, wait_some

# Message tags. LAST is an answer after which its worker is to leave. Workers add their reason to end to the last two.
ANSWER, LAST, MESSAGE, LEAVE = 0, 1, 2, 16


class Mailbox:
    """Server: a buffer for each worker, of the shape and dtype of `x`, in which its message comes in and the answer to
    it goes out. Between the two the worker waits, and nothing is under way."""

    def __init__(self, comm: MPI.Intracomm, workers: int, x: np.ndarray) -> None:
        self._comm = comm
        self.buffers = np.empty((workers, *x.shape), x.dtype)
        self._under_way = [comm.Irecv(buffer, worker) for worker, buffer in enumerate(self.buffers)]
        self._answers: list[int | None] = [None] * workers  # the tag of what goes out; None where a message comes in
        self.reason = 0  # to end, the largest of those with which workers have left

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(worker, tag) of every message, as they arrive, until all workers have left or were told to leave. Nothing is
        waited for but the next event."""
        statuses = [MPI.Status() for _ in self._under_way]
        present = len(self._under_way)
        while present:
            for worker, status in zip(wait_some(self._comm, self._under_way, statuses), statuses, strict=False):
                answer = self._answers[worker]
                if answer is None and status.tag < LEAVE:
                    yield worker, status.tag
                elif answer in (ANSWER, LAST):
                    self._expect(worker)
                else:
                    present -= 1
                    self.reason = max(self.reason, status.tag - LEAVE if answer is None else 0)

    def answer(self, worker: int, tag: int = ANSWER) -> None:
        """Send the worker what is in its buffer; with the tag LEAVE no message of it will follow."""
        sending = self._comm.Isend(self.buffers[worker], worker, tag)
        if tag != LEAVE and sending.Test():  # as a short one has, at once
            self._expect(worker)
        else:
            self._answers[worker], self._under_way[worker] = tag, sending

    def _expect(self, worker: int) -> None:
        """Its next message may come in."""
        self._answers[worker] = None
        self._under_way[worker] = self._comm.Irecv(self.buffers[worker], worker)


def exchanges(
    comm: MPI.Intracomm, workers: int, x: np.ndarray, more: Callable[[int], bool] = lambda reason: True
) -> Iterator[tuple[int, np.ndarray, Callable[[], None]]]:
    """Server: (worker, message, answer) for every message of a worker, as they arrive, until all workers have left.

    `answer` sends what is in `message` then, and with it whether another one is wanted: what `more` says, which is told
    the reason to end of this worker or of one that has left. The worker waits for it, and for nothing that comes after;
    its next message may be in `message` then. Who does not call it has answered when the next message is asked for.
    """
    mailbox = Mailbox(comm, workers, x)
    asked: tuple[int, int] | None = None  # (worker, tag) until it is answered

    def answer() -> None:
        nonlocal asked
        if asked:
            (worker, tag), asked = asked, None
            mailbox.answer(worker, ANSWER if more(max(tag - MESSAGE, mailbox.reason)) else LAST)

    for asked in mailbox:
        yield asked[0], mailbox.buffers[asked[0]], answer
        answer()


def ask(comm: MPI.Intracomm, slices: Mapping[int, slice], message: Any, answer: Any, reason: int = 0) -> bool:
    """Worker: send every server its slice of `message`, with a `reason` to end, and wait for its slice of `answer`;
    both of shape (dim,). Whether the first server wants another message."""
    requests = [comm.Isend(message[part], server, MESSAGE + reason) for server, part in slices.items()]
    requests += [comm.Irecv(answer[part], server) for server, part in slices.items()]
    statuses = [MPI.Status() for _ in requests]
    wait(comm, requests, statuses)
    return statuses[len(slices)].tag != LAST


def leave(comm: MPI.Intracomm, servers: Iterable[int], reason: int = 0) -> None:
    """Worker: tell every server that no message will follow, and of a reason to end."""
    wait(comm, [comm.Isend([None, MPI.BYTE], server, LEAVE + reason) for server in servers])
