"""Errors that one rank can see, raised on every rank, so that nobody waits for a rank that gave up."""

from collections.abc import Callable
from typing import TypeVar

from mpi4py import MPI

from outpace.comm import clock
from outpace.comm.errors import UserError

T = TypeVar("T")


def together(comm: MPI.Intracomm, function: Callable[[], T]) -> T:
    """This rank's `function()`; if it raises UserError on any rank, the lowest such rank's error on every rank."""
    result, error = None, None
    try:
        result = function()
    except UserError as exc:
        error = exc
    # Asleep until all are here: in a collective they would spin, and take the cores from those that still work.
    clock.wait(comm, [comm.Ibarrier()])
    errors = [exc for exc in comm.allgather(error) if exc is not None]
    if errors:
        raise errors[0]
    return result  # type: ignore[return-value]


def on_root(comm: MPI.Intracomm, function: Callable[[], T]) -> T | None:
    """`function()` on rank 0, None elsewhere; its UserError is raised on every rank."""
    return together(comm, lambda: function() if comm.rank == 0 else None)
