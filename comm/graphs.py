"""The graphs of the named topologies: who sends to whom, among n workers. No weights, no MPI.

graph[i, j] says that j sends to i. All but two of the topologies are undirected, with a symmetric graph, and all but
one have the same graph in every step.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from outpace.comm.errors import UserError
from outpace.comm.spec import WHOLE, PositiveInt, Probability, Range, Seed, Switch
from outpace.comm.streams import GRAPH

Graph = NDArray[np.bool_]  # shape (n, n), False on the diagonal
Ranks = NDArray[np.intp]

SWAPS_PER_EDGE = 10  # tried per round of random-regular
ROUNDS = 1000  # random graphs tried before a connected one is given up


@dataclass(frozen=True, kw_only=True)
class Topology:
    lazy: Switch = 0  # 1: (W + I) / 2

    asymmetric = ""  # what keeps it from having one symmetric matrix

    def graph(self, n: int) -> Graph:
        raise NotImplementedError

    def period(self, n: int) -> int:
        """After how many steps its graphs come again."""
        return 1

    def graphs(self, n: int) -> list[Graph]:
        """Those of one period."""
        return [self.graph(n)]


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
            if connected(graph):
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
            if connected(graph):
                return graph
        raise UserError(
            f"--topology erdos-renyi: none of {ROUNDS} graphs of {n} workers with p={self.p:g} is connected; "
            f"p of {np.log(n) / n:.2g} (ln n / n) and more makes connected ones usual"
        )


@dataclass(frozen=True, kw_only=True)
class StaticExponential(Topology):
    """Worker i sends to i + 1, i + 2, i + 4, ... below i + n (mod n) (Ying et al., NeurIPS 2021, arXiv:2110.13363).

    Everybody sends to L = ceil(log2 n) workers and hears as many, so all weights are 1/(1 + L). The spectral gap is
    2/(1 + L) for even n, and more for odd n.
    """

    asymmetric = "is directed"

    def graph(self, n: int) -> Graph:
        return _sending(n, _powers(n))


@dataclass(frozen=True, kw_only=True)
class OnePeer(Topology):
    """In step k worker i sends to i + 2^(k mod L) (mod n) alone, L = ceil(log2 n); all weights are 1/2 (Ying et al.).

    Any L steps in a row make the exact average where n is a power of two.
    """

    asymmetric = "is directed and changes from step to step"

    def period(self, n: int) -> int:
        return max(1, len(_powers(n)))

    def graphs(self, n: int) -> list[Graph]:
        return [_sending(n, [hop]) for hop in _powers(n)] or [_sending(n, [])]


def hops(graph: Graph, source: int) -> Ranks:
    """Hops from `source` to every worker, by breadth-first search, shape (n,); -1 where there is no way."""
    hops = np.full(len(graph), -1)
    frontier, distance = np.array([source]), 0
    while len(frontier):
        hops[frontier] = distance
        frontier = np.flatnonzero(graph[frontier].any(axis=0) & (hops < 0))
        distance += 1
    return hops


def connected(W: NDArray[Any]) -> bool:
    return bool((hops(W != 0, 0) >= 0).all())


def _sending(n: int, hops: Iterable[int]) -> Graph:
    """Every i sends to i + hop (mod n); a hop that leads back to i is left out."""
    i = np.arange(n)
    graph = np.zeros((n, n), dtype=bool)
    for hop in hops:
        graph[(i + hop) % n, i] = True
    np.fill_diagonal(graph, False)
    return graph


def _circulant(n: int, hops: Iterable[int]) -> Graph:
    """i ~ i + hop and i - hop (mod n)."""
    graph = _sending(n, hops)
    return graph | graph.T


def _powers(n: int) -> list[int]:
    """1, 2, 4, ... below n."""
    return [2**i for i in range((n - 1).bit_length())]


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
