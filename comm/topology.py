"""Topologies: a SPEC and a number of workers -> mixing matrix, and what programs ask of it. No MPI.

A topology *is* its mixing matrix W: worker i averages over itself and its neighbours, the j with W_ij != 0.
Most graphs (`comm/graphs.py`) are undirected, and the weights are Metropolis's (Xiao, Boyd, Kim: Distributed average
consensus with least-mean-square deviation, JPDC 67, 2007),

    W_ij = 1 / (1 + max(d_i, d_j)) on an edge,   W_ii = 1 - sum_j W_ij

with d_i the number of neighbours. W is symmetric and doubly stochastic with a positive diagonal, so on a
connected graph all eigenvalues but one lie strictly between -1 and 1. With `lazy=1` it is (W + I) / 2, whose
eigenvalues are not negative. One worker alone has W = [[1]] in every topology but `random-regular`.

The exponential graphs `static-exponential` and `one-peer` are directed: j sends to i where W_ij != 0, and need not hear
it. Everybody sends to as many as it hears, and so W is doubly stochastic by the same formula. `one-peer` has another W
in every step. Programs that use either ask for `mixing_matrices`, all others for the one `mixing_matrix`.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from outpace.comm import inputs, memory, spec
from outpace.comm.errors import UserError
from outpace.comm.graphs import (
    Complete,
    ErdosRenyi,
    Exponential,
    Graph,
    Hypercube,
    OnePeer,
    Path,
    RandomRegular,
    Ranks,
    Ring,
    Star,
    StaticExponential,
    Topology,
    Torus,
    hops,
)
from outpace.comm.spec import InputFile

T = TypeVar("T")
Matrix = NDArray[np.float64]

MATRICES = 2  # of n x n numbers that there are at a time, beside those of a period
MOST_KNOWN = 8  # matrices of which something is remembered
TOLERANCE = 1e-12  # of a matrix file: its rounding error is made in every step of a run


@dataclass(frozen=True, kw_only=True)
class File(Topology):
    """W itself from a text file: n lines of n numbers, between blanks or commas; `#` starts a comment."""

    path: InputFile

    def matrix(self, n: int, push: bool) -> Matrix:
        """The file's matrix, symmetric and doubly stochastic or, with `push`, column-stochastic. Raises UserError."""
        W = self._read()
        flaw = _flaw(W, n, push) or (None if self.lazy else _standstill(W, push))
        if flaw is not None:
            raise UserError(f"--topology file: {self.path}: {flaw}")
        return W

    def _read(self) -> Matrix:
        text = inputs.text(self.path, "--topology file: ")
        lines = [line.partition("#")[0].replace(",", " ").split() for line in text.splitlines()]
        try:
            rows = [[float(word) for word in line] for line in lines if line]
        except ValueError as error:  # a word that is no number
            raise UserError(f"--topology file: {self.path}: {error}") from None
        if len({len(row) for row in rows}) != 1:
            reason = "its lines hold different amounts of numbers" if rows else "it holds no numbers"
            raise UserError(f"--topology file: {self.path}: {reason}")
        return np.array(rows)


TOPOLOGIES: dict[str, type[Topology]] = {
    "ring": Ring,
    "path": Path,
    "star": Star,
    "complete": Complete,
    "torus": Torus,
    "hypercube": Hypercube,
    "exponential": Exponential,
    "random-regular": RandomRegular,
    "erdos-renyi": ErdosRenyi,
    "static-exponential": StaticExponential,
    "one-peer": OnePeer,
    "file": File,
}


def mixing_matrix(text: str, n: int) -> Matrix:
    """W of a topology SPEC, shape (n, n): symmetric, doubly stochastic, connected, gap above 0.

    A random topology depends on its own `seed=` only, so that all ranks get the same one.

    >>> mixing_matrix("path", 3).round(3).tolist()
    [[0.667, 0.333, 0.0], [0.333, 0.333, 0.333], [0.0, 0.333, 0.667]]

    Raises UserError for a bad SPEC, an n that the topology does not have, an unusable file, and a topology that has no
    such W.
    """
    reason = _parse(text, n).asymmetric
    if reason:
        names = ", ".join(name for name, kind in TOPOLOGIES.items() if not kind.asymmetric)
        raise UserError(f"--topology {text} {reason}; this program needs one symmetric mixing matrix; allowed: {names}")
    return mixing_matrices(text, n)[0]


def mixing_matrices(text: str, n: int) -> list[Matrix]:
    """W of each step of a period, for programs whose neighbours may be others from step to step, and need not hear
    those that they send to; in every other respect like `mixing_matrix`.

    >>> [W[0].tolist() for W in mixing_matrices("one-peer", 4)]
    [[0.5, 0.0, 0.0, 0.5], [0.5, 0.0, 0.5, 0.0]]
    """
    return _matrices(_parse(text, n), n, push=False)


def push_matrices(text: str, n: int) -> list[Matrix]:
    """P of each step of a period for push-sum, shape (n, n): every column sums to 1, rows need not.

    Each worker gives equal parts to itself and to those it sends to. A file has any column-stochastic matrix of a
    strongly connected graph on which everybody keeps a part.

    >>> push_matrices("path", 3)[0].round(3).tolist()
    [[0.5, 0.333, 0.0], [0.5, 0.333, 0.5], [0.0, 0.333, 0.5]]
    """
    return _matrices(_parse(text, n), n, push=True)


def _parse(text: str, n: int) -> Topology:
    if n < 1:
        raise ValueError(f"n is {n}; a topology has at least 1 worker")
    topology: Topology = spec.parse(text, TOPOLOGIES, "--topology")
    return topology


def _matrices(topology: Topology, n: int, push: bool) -> list[Matrix]:
    """Read-only, but of a file, which may change."""
    if isinstance(topology, File):
        _require(topology, n)
        return _lazy(topology, [topology.matrix(n, push)])
    return list(_of_graphs(topology, n, push))


@functools.lru_cache(maxsize=8)  # once for all ranks that are simulated in this process
def _of_graphs(topology: Topology, n: int, push: bool) -> list[Matrix]:
    _require(topology, n)
    own = np.eye(n, dtype=bool)
    matrices = _lazy(
        topology,
        [(graph | own) / (1.0 + graph.sum(axis=0)) if push else metropolis(graph) for graph in topology.graphs(n)],
    )
    for W in matrices:
        W.flags.writeable = False
    return matrices


def _require(topology: Topology, n: int) -> None:
    """Raise UserError where there is no memory for its matrices."""
    text = spec.render(topology, TOPOLOGIES)
    memory.require((MATRICES + topology.period(n)) * 8.0 * n * n, f"--topology {text} of {n} workers")


def _lazy(topology: Topology, matrices: list[Matrix]) -> list[Matrix]:
    return [(W + np.eye(len(W))) / 2 for W in matrices] if topology.lazy else matrices


def once(function: Callable[[Matrix], T]) -> Callable[[Matrix], T]:
    """The function, which is asked once for a matrix that cannot change, however many ranks of this process ask."""
    known: dict[int, tuple[Matrix, T]] = {}

    @functools.wraps(function)
    def of(W: Matrix) -> T:
        if W.flags.writeable:
            return function(W)
        if id(W) not in known:
            if len(known) == MOST_KNOWN:
                known.clear()
            known[id(W)] = W, function(W)  # W is kept, so that no other one gets its id
        return known[id(W)][1]

    return of


def canonical(text: str) -> str:
    """The SPEC with its defaults written out.

    >>> canonical("random-regular:degree=4")
    'random-regular:lazy=0,degree=4,seed=0'
    """
    return spec.render(spec.parse(text, TOPOLOGIES, "--topology"), TOPOLOGIES)


def metropolis(graph: Graph) -> Matrix:
    """Metropolis weights of a graph, shape (n, n)."""
    degree = graph.sum(axis=1)
    W: Matrix = graph / (1.0 + np.maximum.outer(degree, degree))
    np.fill_diagonal(W, 1.0 - W.sum(axis=1))
    return W


def neighbours(W: Matrix, rank: int) -> Ranks:
    """The workers that `rank` averages with, without itself, in increasing order.

    >>> neighbours(mixing_matrix("ring", 5), 0)
    array([1, 4])
    """
    linked = W[rank] != 0
    linked[rank] = False
    return np.flatnonzero(linked)


def bipartition(W: Matrix, rank: int, name: str = "") -> tuple[bool, Ranks]:
    """Whether `rank` is active, and its neighbours, which are all of the other kind; rank 0 is passive.

    >>> W = mixing_matrix("ring", 4)
    >>> [bipartition(W, rank)[0] for rank in range(4)]
    [False, True, False, True]

    Raises UserError for a graph with an odd cycle, calling it `name` and listing topologies without one.
    """
    colours = _colours(W)
    if colours is None:
        n = len(W)
        raise UserError(
            f"the graph {name + ' ' if name else ''}of {n} workers has an odd cycle, so they do not split "
            f"into active and passive ones; bipartite with {n} workers: {', '.join(_bipartite_names(n))}"
        )
    return bool(colours[rank]), neighbours(W, rank)


def bipartite(W: Matrix) -> bool:
    """Whether the (connected) graph of W has no odd cycle; a worker's own weight is no cycle.

    >>> bipartite(mixing_matrix("ring", 4)), bipartite(mixing_matrix("ring", 5))
    (True, False)
    """
    return _colours(W) is not None


@once
def _colours(W: Matrix) -> Ranks | None:
    """0 or 1 for each worker, the other one for its neighbours, 0 for worker 0; None where that cannot be."""
    colours: Ranks = hops(W != 0, 0) % 2
    i, j = np.nonzero(W)
    return None if (colours[i] == colours[j])[i != j].any() else colours


def spectral_gap(W: Matrix) -> float:
    """1 - |W - 11'/n|_2: what a step takes off the models' distance from their mean, at least; 1 for one worker.

    For a symmetric W, and for the exponential graphs, it is 1 less the second largest modulus of the eigenvalues.

    >>> round(spectral_gap(mixing_matrix("ring", 4)), 6)  # eigenvalues 1, 1/3, 1/3, -1/3
    0.666667
    """
    return float(1.0 - np.linalg.norm(W - 1.0 / len(W), 2))


def smallest_eigenvalue(W: Matrix) -> float:
    """lambda_n of a symmetric W; D^2 needs it above -1/3, where the ring of an even n lies exactly.

    >>> round(smallest_eigenvalue(mixing_matrix("ring", 8)), 6)
    -0.333333
    """
    return float(np.linalg.eigvalsh(W)[0])


def diameter(W: Matrix) -> int:
    """The largest number of hops between two workers of a connected graph.

    >>> diameter(mixing_matrix("ring", 7)), diameter(mixing_matrix("star", 7))
    (3, 2)
    """
    graph = W != 0
    return max(int(hops(graph, rank).max()) for rank in range(len(graph)))


def steps_to_all(matrices: list[Matrix]) -> int:
    """After how many steps everybody has heard of everybody: the diameter, or one period where the graphs change.

    >>> steps_to_all(mixing_matrices("ring", 8)), steps_to_all(mixing_matrices("one-peer", 8))
    (4, 3)
    """
    return diameter(matrices[0]) if len(matrices) == 1 else len(matrices)


def _flaw(W: Matrix, n: int, push: bool) -> str | None:
    """Why a matrix from a file is no mixing matrix of n workers, or none for push-sum; None if it is one."""
    if W.shape != (n, n):
        return f"it holds {W.shape[0]} x {W.shape[1]} numbers; {n} workers need {n} x {n}"
    bad = ~(np.isfinite(W) & (W >= 0))
    if bad.any():
        i, j = np.argwhere(bad)[0]
        return f"W[{i},{j}] is {W[i, j]:g}; every weight must be finite and at least 0"
    skew = np.abs(W - W.T)
    if skew.max() > TOLERANCE and not push:
        i, j = np.unravel_index(skew.argmax(), skew.shape)
        return f"W[{i},{j}] is {float(W[i, j])!r} but W[{j},{i}] is {float(W[j, i])!r}; W must be symmetric"
    line, sums = ("column", W.sum(axis=0)) if push else ("row", W.sum(axis=1))
    i = np.abs(sums - 1).argmax()
    if abs(sums[i] - 1) > TOLERANCE:
        return f"{line} {i} sums to {float(sums[i])!r}; {line}s must sum to 1, to {TOLERANCE:g} (write all digits)"
    there, back = hops(W.T != 0, 0), hops(W != 0, 0)  # -1 where there is no way
    if there.min() < 0:
        return f"no way leads from worker 0 to worker {there.argmin()}; the graph must be connected"
    if back.min() < 0:
        return f"no way leads from worker {back.argmin()} to worker 0; the graph must be connected"
    return None


def _standstill(W: Matrix, push: bool) -> str | None:
    """Why the models would never agree; None if they do."""
    if push and not W.diagonal().all():
        i = W.diagonal().argmin()
        return f"W[{i},{i}] is 0, and every worker must keep a part; lazy=1 makes it (W + I) / 2"
    if not push and smallest_eigenvalue(W) < TOLERANCE - 1:
        return "its smallest eigenvalue is -1, so models would never agree; lazy=1 makes it (W + I) / 2"
    return None


def _bipartite_names(n: int) -> list[str]:
    """The topologies without required keys that are bipartite for n workers."""
    names = []
    for name in TOPOLOGIES:
        try:
            W = mixing_matrix(name, n)
        except UserError:  # needs keys, or has no graph of n workers
            continue
        if bipartite(W):
            names.append(name)
    return names
