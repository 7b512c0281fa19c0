"""What gossip programs share between the threads of a worker: the local model, behind a lock."""

from typing import Any, Protocol

from mpi4py import MPI

from outpace.comm import threads
from outpace.comm.arrays import copy, module


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
