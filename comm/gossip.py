"""What gossip programs share between the threads of a worker, the local model behind a lock, and the exchange by which
two workers average theirs."""

from collections.abc import Sequence
from typing import Any, Final, Protocol

from mpi4py import MPI

from outpace.comm import threads
from outpace.comm.arrays import copy, module, twin
from outpace.comm.clock import wait

PIECE: Final = 2**18  # coordinates of a message


class Watches(Protocol):
    """The part of a trace that a model needs."""

    def snapshot(self, x: Any) -> None: ...


class SharedModel:
    """A worker's model x, shape (dim,), read and written by its gradient loop and its communication thread.

    Every write adds an increment, so writes commute and none is lost. The lock is held for a pass over the vector,
    never across a message. `averagings` counts the writes of the communication thread.
    """

    def __init__(self, comm: MPI.Intracomm, x: Any, trace: Watches) -> None:
        self.x = x
        self.averagings = 0
        self._lock = threads.lock(comm)
        self._trace = trace

    def read(self, target: Any) -> int:
        """Copy the model to `target`; the averagings it has seen."""
        with self._lock:
            copy(self.x, target)
            return self.averagings

    def halve(self, target: Any) -> None:
        """Half of the model to `target`: what an averaging sends. Halving is exact, so nothing is lost by it."""
        with self._lock:
            module(target).multiply(self.x, 0.5, out=target)

    def subtract(self, update: Any) -> int:
        """x -= update; the averagings that x had seen before."""
        with self._lock:
            self._trace.snapshot(self.x)
            self.x -= update
            return self.averagings

    def average(self, difference: Any) -> None:
        """x += difference, half of the peer's model less half of this one as they were exchanged.

        The peer does the same the other way round, so the sum of both models stays, to the rounding of the additions.
        """
        with self._lock:
            self._trace.snapshot(self.x)
            self.x += difference
            self.averagings += 1


class Exchange:
    """One averaging, the same on both sides: send s = x/2, receive r at the same time, add r - s.

    Models travel in pieces, as messages with this tag, and r - s is taken of one piece while the next is under way. The
    model gets the whole of it at once, so no reader sees half an averaging. `nbytes` is what a side sends.
    """

    def __init__(self, comm: MPI.Intracomm, model: SharedModel, tag: int) -> None:
        self.comm, self.model, self.tag, self.nbytes = comm, model, tag, int(model.x.nbytes)
        self._s, self._r = model.x.copy(), model.x.copy()
        self._s_wire = twin(self._s, comm)
        self._s_pieces, self._r_pieces, self._outgoing = _pieces(self._s), _pieces(self._r), _pieces(self._s_wire)
        self._incoming = [twin(r, comm) for r in self._r_pieces]

    def average_with(self, peer: int, hail: Sequence[MPI.Request]) -> None:
        """`hail` are the requests by which the two hear of each other. The model follows at once, which spares a round
        trip; when both are known to be there, they look after the transfer and do not sleep."""
        self.model.halve(self._s)
        copy(self._s, self._s_wire)
        arrivals = [self.comm.Irecv(piece, peer, self.tag) for piece in self._incoming]
        departures = [self.comm.Isend(piece, peer, self.tag) for piece in self._outgoing]
        wait(self.comm, hail)
        for arrival, piece, r, s in zip(arrivals, self._incoming, self._r_pieces, self._s_pieces, strict=True):
            wait(self.comm, [arrival], under_way=True)
            copy(piece, r)
            r -= s
        wait(self.comm, departures, under_way=True)
        self.model.average(self._r)


def _pieces(x: Any) -> list[Any]:
    """Views of x, of PIECE coordinates each but for the last."""
    return [x[start : start + PIECE] for start in range(0, len(x), PIECE)]
