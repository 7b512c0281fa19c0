"""What a worker averages over in a step: its row of a mixing matrix, and the arrays that the vectors go through."""

from typing import Any

from outpace.comm import vectors
from outpace.comm.arrays import copy, module, twin
from outpace.comm.bfloat16 import SAME, WireFormat
from outpace.comm.meter import MeteredComm
from outpace.comm.topology import Matrix, neighbours


class Neighbourhood:
    """Worker `comm.rank` in one step of a topology, whose `graph` joins it with those it hears and those that hear it.

    It sends `own`, shape (dim,), through `own_wire`, `nbytes` in all, and hears through `wire`.
    """

    def __init__(self, comm: MeteredComm, W: Matrix, X: Any, form: WireFormat) -> None:
        """The first rows of `X` are the own vector and those that are heard, which travel in that form."""
        hears, heard_by = neighbours(W, comm.rank), neighbours(W.T, comm.rank)
        self.graph = comm.Create_dist_graph_adjacent(hears, heard_by)
        self._own, self._heard = X[0], X[1 : 1 + len(hears)]
        self.weight, self._weights = float(W[comm.rank, comm.rank]), module(X).asarray(W[comm.rank, hears], X.dtype)
        self._form, self._words = form, form.like(self._heard)
        self.wire = twin(self._words, comm)
        self.nbytes = len(heard_by) * X.shape[1] * self._words.itemsize
        self._mix = vectors.mix.like(X[0])

    def average(self, out: Any) -> None:
        """out, shape (dim,), <- the average by W of the own vector and what has been heard."""
        self._mix(self.weight, self._own, self.others(), out)

    def others(self) -> tuple[Any, Any]:
        """What has been heard as an argument of a fused operation, a `vectors.Mean`, to which the own
        vector comes with its own `weight`."""
        copy(self.wire, self._words)
        self._form.widen(self._words, self._heard)
        return self._weights, self._heard


def neighbourhoods(
    comm: MeteredComm, matrices: list[Matrix], x: Any, form: WireFormat = SAME
) -> tuple[Any, list[Neighbourhood]]:
    """The vector that a worker sends, like x and in that form, and its neighbourhoods in the steps of a period;
    collective over comm."""
    most = max(len(neighbours(W, comm.rank)) for W in matrices)
    X = module(x).empty((1 + most, x.size), x.dtype)  # which they share: a step's vectors are gone in the next one
    return X[0], [Neighbourhood(comm, W, X, form) for W in matrices]
