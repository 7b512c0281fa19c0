"""Topologies: a SPEC and a number of workers -> mixing matrix, and what programs ask of it. No MPI.

A topology *is* its mixing matrix W: worker i averages over itself and its neighbours, the j with W_ij != 0.
All graphs are simple and undirected, and the weights are Metropolis's (Xiao, Boyd, Kim: Distributed average
consensus with least-mean-square deviation, JPDC 67, 2007),

    W_ij = 1 / (1 + max(d_i, d_j)) on an edge,   W_ii = 1 - sum_j W_ij

with d_i the number of neighbours. W is symmetric and doubly stochastic with a positive diagonal, so on a
connected graph all eigenvalues but one lie strictly between -1 and 1. With `lazy=1` it is (W + I) / 2, whose
eigenvalues are not negative. One worker alone has W = [[1]] in every topology but `random-regular`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from outpace.comm import inputs, memory, spec
from outpace.comm.errors import UserError
from outpace.comm.spec import WHOLE, InputFile, PositiveInt, Probability, Range, Seed, Switch
from outpace.comm.streams import GRAPH

Matrix = NDArray[np.float64]
Graph = NDArray[np.bool_]  # symmetric, shape (n, n), False on the diagonal
Ranks = NDArray[np.intp]

SWAPS_PER_EDGE = 10  # tried per round of random-regular
ROUNDS = 1000  # random graphs tried before a connected one is given up
MATRICES = 3  # of n x n numbers that there are at a time
TOLERANCE = 1e-12  # of a matrix file: its rounding error is made in every step of a run


@dataclass(frozen=True, kw_only=True)
class Topology:
    lazy: Switch = 0  # 1: (W + I) / 2

    def graph(self, n: int) -> Graph:
        raise NotImplementedError

    def matrix(self, n: int) -> Matrix:
        return metropolis(self.graph(n))


@dataclass(frozen=True, kw_only=True)
class Ring(Topology):
    """0 - 1 - ... - (n-1) - 0. Two workers have one edge."""

    def graph(self, n: int) -> Graph:
        return _circulant(n, [1])


@dataclass(frozen=True, kw_only=True)
class Path(Topology):
    """0 - 1 - ... - (n-1)."""

    def graph(self, n: int) -> Graph:
        return np.eye(n, k=1, dtype=bool) | np.eye(n, k=-1, dtype=bool)


@dataclass(frozen=True, kw_only=True)
class Star(Topology):
    """Worker 0 with every other one."""

    def graph(self, n: int) -> Graph:
        graph = np.zeros((n, n), dtype=bool)
        graph[0, 1:] = graph[1:, 0] = True
        return graph


@dataclass(frozen=True, kw_only=True)
class Complete(Topology):
    """Every worker with every other one: W = 11'/n."""

    def graph(self, n: int) -> Graph:
        return ~np.eye(n, dtype=bool)


@dataclass(frozen=True, kw_only=True)
class Torus(Topology):
    """rows x cols workers, numbered row by row, each row and each column a ring.

    Both sides are at least 2; by default they are as equal as n allows, with rows <= cols. A side of 2 is one
    edge, the way round being the way across: 2 x 2 is a ring of 4.
    """

    rows: Annotated[int, Range(least=2, most=WHOLE)] | None = None

    def graph(self, n: int) -> Graph:
        sides = [rows for rows in range(2, n // 2 + 1) if n % rows == 0]
        if self.rows is not None and self.rows not in sides:
            works = f"rows that work: {', '.join(map(str, sides))}" if sides else "no number of rows works"
            raise UserError(
                f"--topology torus: rows is {self.rows} with {n} workers; rows x cols must be {n}, "
                f"both sides at least 2; {works}"
            )
        if self.rows is None and not sides and n > 1:
            near = [str(m) for m in (n - 1, n + 1) if m >= 4] or ["4"]
            raise UserError(
                f"--topology torus: {n} workers; it needs rows x cols of them, both sides at least 2, "
                f"such as {' or '.join(near)}"
            )
        rows = self.rows or max((rows for rows in sides if rows * rows <= n), default=1)
        cols = n // rows
        along = np.kron(np.eye(rows, dtype=bool), _circulant(cols, [1]))
        across = np.kron(_circulant(rows, [1]), np.eye(cols, dtype=bool))
        return along | across


@dataclass(frozen=True, kw_only=True)
class Hypercube(Topology):
    """Workers whose numbers differ in one bit."""

    def graph(self, n: int) -> Graph:
        below = 1 << (n.bit_length() - 1)
        if n != below:
            raise UserError(
                f"--topology hypercube: {n} workers; it needs a power of two, such as {below} or {2 * below}"
            )
        i = np.arange(n)
        graph = np.zeros((n, n), dtype=bool)
        for bit in range(n.bit_length() - 1):
            graph[i, i ^ (1 << bit)] = True
        return graph


@dataclass(frozen=True, kw_only=True)
class Exponential(Topology):
    """Hops 1 and 2^i + 1 for i = 1..floor(log2(n - 1)), both ways: the graph of AD-PSGD (arXiv:1710.06952).

    All hops are odd (2^0 + 1 = 2 is not one), so the graph is bipartite for even n.
    """

    def graph(self, n: int) -> Graph:
        return _circulant(n, [1, *(2**i + 1 for i in range(1, (n - 1).bit_length()))])


@dataclass(frozen=True, kw_only=True)
class RandomRegular(Topology):
    """A random connected graph in which every worker has `degree` neighbours.

    A circulant graph goes through rounds of double edge swaps (a-b, c-d -> a-d, c-b), which keep the degrees,
    until a round leaves it connected.
    """

    degree: PositiveInt
    seed: Seed = 0

    def graph(self, n: int) -> Graph:
        if self.degree >= n:
            raise UserError(
                f"--topology random-regular: degree is {self.degree}; "
                f"with {n} worker{'s' * (n > 1)} it must be less than {n}"
            )
        if self.degree * n % 2:
            raise UserError(f"--topology random-regular: degree is {self.degree}; with {n} workers it must be even")
        if self.degree == 1 and n > 2:
            raise UserError(f"--topology random-regular: degree is 1; with {n} workers it must be at least 2")
        opposite = [n // 2] if self.degree % 2 else []
        graph = _circulant(n, [*range(1, self.degree // 2 + 1), *opposite])
        edges = np.argwhere(np.triu(graph))
        rng = np.random.default_rng([GRAPH, self.seed])
        for _ in range(ROUNDS):
            _swap_edges(graph, edges, rng)
            if _connected(graph):
                return graph
        raise UserError(
            f"--topology random-regular: no connected graph of {n} workers in {ROUNDS} rounds with "
            f"degree {self.degree}; a larger degree makes one likelier"
        )


@dataclass(frozen=True, kw_only=True)
class ErdosRenyi(Topology):
    """Every pair of workers is an edge with probability p; drawn again until the graph is connected."""

    p: Probability
    seed: Seed = 0

    def graph(self, n: int) -> Graph:
        rng = np.random.default_rng([GRAPH, self.seed])
        for _ in range(ROUNDS):
            upper = np.triu(rng.random((n, n)) < self.p, k=1)
            graph = upper | upper.T
            if _connected(graph):
                return graph
        raise UserError(
            f"--topology erdos-renyi: none of {ROUNDS} graphs of {n} workers with p={self.p:g} is connected; "
            f"p of {np.log(n) / n:.2g} (ln n / n) and more makes connected ones usual"
        )


@dataclass(frozen=True, kw_only=True)
class File(Topology):
    """W itself from a text file: n lines of n numbers, between blanks or commas; `#` starts a comment."""

    path: InputFile

    def matrix(self, n: int) -> Matrix:
        W = self._read()
        flaw = _flaw(W, n)
        if flaw is None and not self.lazy and smallest_eigenvalue(W) < TOLERANCE - 1:
            flaw = "its smallest eigenvalue is -1, so models would never agree; lazy=1 makes it (W + I) / 2"
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
    "file": File,
}


def mixing_matrix(text: str, n: int) -> Matrix:
    """W of a topology SPEC, shape (n, n): symmetric, doubly stochastic, connected, gap above 0.

    A random topology depends on its own `seed=` only, so that all ranks get the same one.

    >>> mixing_matrix("path", 3).round(3).tolist()
    [[0.667, 0.333, 0.0], [0.333, 0.333, 0.333], [0.0, 0.333, 0.667]]

    Raises UserError for a bad SPEC, an n that the topology does not have, and an unusable file.
    """
    if n < 1:
        raise ValueError(f"n is {n}; a topology has at least 1 worker")
    topology = spec.parse(text, TOPOLOGIES, "--topology")
    memory.require(MATRICES * 8.0 * n * n, f"--topology {text} of {n} workers")
    W = topology.matrix(n)
    return (W + np.eye(n)) / 2 if topology.lazy else W


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
    if not bipartite(W):
        n = len(W)
        raise UserError(
            f"the graph {name + ' ' if name else ''}of {n} workers has an odd cycle, so they do not split "
            f"into active and passive ones; bipartite with {n} workers: {', '.join(_bipartite_names(n))}"
        )
    return bool(_hops(W != 0, 0)[rank] % 2), neighbours(W, rank)


def bipartite(W: Matrix) -> bool:
    """Whether the (connected) graph of W has no odd cycle; a worker's own weight is no cycle.

    >>> bipartite(mixing_matrix("ring", 4)), bipartite(mixing_matrix("ring", 5))
    (True, False)
    """
    colour = _hops(W != 0, 0) % 2
    i, j = np.nonzero(W)
    return not (colour[i] == colour[j])[i != j].any()


def spectral_gap(W: Matrix) -> float:
    """1 - max(|lambda_2|, |lambda_n|) of a symmetric W; 1 for one worker.

    >>> round(spectral_gap(mixing_matrix("ring", 4)), 6)  # eigenvalues 1, 1/3, 1/3, -1/3
    0.666667
    """
    return float(1.0 - np.abs(np.linalg.eigvalsh(W)[:-1]).max(initial=0.0))


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
    return max(int(_hops(graph, rank).max()) for rank in range(len(graph)))


def _circulant(n: int, hops: Iterable[int]) -> Graph:
    """i ~ i + hop and i - hop (mod n); a hop that leads back to i is left out."""
    i = np.arange(n)
    graph = np.zeros((n, n), dtype=bool)
    for hop in hops:
        graph[i, (i + hop) % n] = graph[i, (i - hop) % n] = True
    np.fill_diagonal(graph, False)
    return graph


def _swap_edges(graph: Graph, edges: NDArray[np.intp], rng: np.random.Generator) -> None:
    """One round of double edge swaps in place; `edges`, shape (m, 2), lists the edges of `graph`."""
    tries = SWAPS_PER_EDGE * len(edges)
    pairs, turns = rng.integers(len(edges), size=(tries, 2)), rng.integers(2, size=tries)
    for (first, second), turn in zip(pairs.tolist(), turns.tolist(), strict=True):
        a, b = edges[first]
        c, d = edges[second][::-1] if turn else edges[second]
        if a == d or b == c or graph[a, d] or graph[c, b]:
            continue  # would make a loop or a double edge
        graph[a, b] = graph[b, a] = graph[c, d] = graph[d, c] = False
        graph[a, d] = graph[d, a] = graph[c, b] = graph[b, c] = True
        edges[first], edges[second] = (a, d), (c, b)


def _hops(graph: Graph, source: int) -> Ranks:
    """Hops from `source` to every worker, by breadth-first search, shape (n,); -1 where there is no way."""
    hops = np.full(len(graph), -1)
    frontier, distance = np.array([source]), 0
    while len(frontier):
        hops[frontier] = distance
        frontier = np.flatnonzero(graph[frontier].any(axis=0) & (hops < 0))
        distance += 1
    return hops


def _connected(W: Matrix | Graph) -> bool:
    return bool((_hops(W != 0, 0) >= 0).all())


def _flaw(W: Matrix, n: int) -> str | None:
    """Why a matrix from a file is no mixing matrix of n workers; None if it is one."""
    if W.shape != (n, n):
        return f"it holds {W.shape[0]} x {W.shape[1]} numbers; {n} workers need {n} x {n}"
    bad = ~(np.isfinite(W) & (W >= 0))
    if bad.any():
        i, j = np.argwhere(bad)[0]
        return f"W[{i},{j}] is {W[i, j]:g}; every weight must be finite and at least 0"
    skew = np.abs(W - W.T)
    if skew.max() > TOLERANCE:
        i, j = np.unravel_index(skew.argmax(), skew.shape)
        return f"W[{i},{j}] is {float(W[i, j])!r} but W[{j},{i}] is {float(W[j, i])!r}; W must be symmetric"
    sums = W.sum(axis=1)
    i = np.abs(sums - 1).argmax()
    if abs(sums[i] - 1) > TOLERANCE:
        return f"row {i} sums to {float(sums[i])!r}; rows must sum to 1, to {TOLERANCE:g} (write all digits)"
    if not _connected(W):
        return f"no way leads from worker 0 to worker {(_hops(W != 0, 0) < 0).argmax()}; the graph must be connected"
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
