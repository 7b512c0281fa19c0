"""Sums of functions of one row a_j of a data matrix each, and where the rows come from.

The objective of these problems is the mean over all rows, however they are dealt: f_i is N-weighted, (n n_i / N) times
the mean over worker i's rows, so that (1/n) sum f_i does not depend on the workers. A worker keeps its own once, in the
order of the deal; whatever the number of workers, `iid` deals the same order. Rows are dense arrays, or where that is
wasteful sparse ones of scipy.sparse (on a GPU cupyx.scipy.sparse) in the CSR format.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final, TypeVar

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.problems import size, splits
from outpace.benchmarks.problems.problem import Problem, Setting
from outpace.benchmarks.problems.size import Size
from outpace.comm import agreement, memory
from outpace.comm.errors import UserError

AnyRows = TypeVar("AnyRows")  # dense or sparse
ROWS: Final = 7  # message tag
SOLVABLE: Final = 4e9  # samples dim^2 up to which minima are found in advance, from dense rows
SPARSE: Final = 0.25  # share of numbers other than 0, up to which larger data is kept sparse
NARROW: Final = 1000  # columns up to which the largest eigenvalue is LAPACK's
FAIR: Final = 1e-100  # numbers whose squares are numbers
PRECISION: Final = 1e-3  # of that of wider rows


@dataclass
class Data:
    """All rows, float64, shape (N, dim), their labels if any, shape (N,), and what was found out about them."""

    rows: Any
    labels: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)  # small: told to every rank


class Rows(Problem):
    """One worker's rows X, shape (n_samples, dim)."""

    def __init__(self, rows: Any, n_total: int, setting: Setting) -> None:
        self.xp, self.dtype = setting.xp, np.dtype(setting.dtype)
        self.sparse = not isinstance(rows, np.ndarray)
        self.X = _sparse(rows, self.xp) if self.sparse else self.xp.asarray(rows)
        self.n_samples, self.n_total = rows.shape[0], n_total
        self.weight = setting.n * self.n_samples / n_total  # of the mean over the rows here in f_i
        self.dim = rows.shape[1]

    def product(self, c: Any, v: Any, batch: np.ndarray | None, out: Any) -> None:
        """out <- f_i's weight times the mean over the batch of c_j a_j (a_j'v); c has shape (n_samples,), or is None
        for 1. Vectors have the size of a row."""
        A = self.X if batch is None else self.X[batch]
        z = A @ v
        if c is not None:
            z *= c if batch is None else c[batch]
        z *= self.weight / A.shape[0]
        self.combine(z, A, out)

    def combine(self, z: Any, A: Any, out: Any) -> None:
        """out <- sum_j z_j a_j over the rows a_j of A."""
        if self.sparse:
            out[:] = A.T @ z
        else:
            self.xp.dot(z, A, out=out)

    def answer(self, comm: MPI.Intracomm, x: np.ndarray) -> dict[str, float]:
        """How far x is from what is known, by LAPACK; collective over comm, whose ranks have a share each."""
        if self.x_star is None:
            return {}
        return {"relative error": float(np.linalg.norm(x - self.x_star) / np.linalg.norm(self.x_star))}


@dataclass
class Share:
    """What one worker gets of `Data`."""

    rows: Any
    labels: np.ndarray | None
    n_total: int
    facts: dict[str, Any]


def share_out(setting: Setting, make: Callable[[], Data], what: str) -> list[Share]:
    """The shares of `setting.workers`. Rank 0 makes the data, deals it and sends each worker its rows; collective.

    Raises UserError, on every rank, where `make` or the split does, and where a node's memory does not suffice for its
    shares of `what` was made.
    """
    comm, dtype = setting.comm, np.dtype(setting.dtype)
    held = comm.gather(list(setting.workers)) or []

    def deal() -> tuple[Data, list[np.ndarray]]:
        data = make()
        N = data.rows.shape[0]
        return data, splits.deal(setting.split, data.labels, setting.n, setting.seed, N, in_order=True)

    dealt = agreement.on_root(comm, deal)
    facts = comm.bcast(dealt and dealt[0].facts)
    is_dense, n_total, dim, numbers = comm.bcast(dealt and _extent(dealt[0].rows))
    size.require(Size(n_total, dim, row=numbers / n_total), setting, what, made=True)
    amounts = comm.bcast(dealt and [len(part) for part in dealt[1]])
    shares = []
    if dealt:
        data, deck = dealt
        for rank, workers in enumerate(held):
            for worker in workers:
                rows = data.rows[deck[worker]].astype(dtype, copy=False)
                labels = None if data.labels is None else data.labels[deck[worker]]
                if rank == comm.rank:
                    shares.append(Share(rows, labels, n_total, facts))
                elif is_dense:
                    comm.Send(rows, rank, ROWS)
                    comm.send(labels, rank, ROWS)
                else:
                    comm.send((rows, labels), rank, ROWS)
    else:
        for worker in setting.workers:
            if is_dense:
                rows = np.empty((amounts[worker], dim), dtype)
                comm.Recv(rows, 0, ROWS)
                labels = comm.recv(source=0, tag=ROWS)
            else:
                rows, labels = comm.recv(source=0, tag=ROWS)
            shares.append(Share(rows, labels, n_total, facts))
    return shares


def _extent(rows: Any) -> tuple[bool, int, int, float]:
    """Whether rows are dense, how many, how wide, and the numbers that they take; a sparse one has its index of half a
    number or a whole one."""
    if isinstance(rows, np.ndarray):
        return True, *rows.shape, rows.size
    return False, *rows.shape, rows.nnz * (1 + rows.indices.itemsize / 8)


def _sparse(rows: Any, xp: ModuleType) -> Any:
    """Sparse rows where xp computes."""
    if xp is np:
        return rows
    import cupyx

    return cupyx.scipy.sparse.csr_matrix(rows)


def dense(X: Any, what: str) -> np.ndarray:
    """Sparse rows as a dense array. Raises UserError where there is no memory for it."""
    memory.require(8 * X.shape[0] * X.shape[1], what)
    rows: np.ndarray = X.toarray()
    return rows


def sparse_where_large(X: Any, what: str) -> Any:
    """Sparse rows as they are, but as a dense array where they are few and narrow, or have few zeros."""
    N, dim = X.shape
    return X if X.nnz <= SPARSE * N * dim and N * dim**2 > SOLVABLE else dense(X, what)


def squared_lengths(X: Any) -> np.ndarray:
    """Of the rows, shape (N,)."""
    lengths: np.ndarray = np.square(X).sum(axis=1) if isinstance(X, np.ndarray) else X.power(2).sum(axis=1)
    return lengths


def largest_eigenvalue(X: Any) -> float:
    """Of C = X'X / N; of wide rows by Lanczos, as a bound from above that is off by no more than PRECISION."""
    N, dim = X.shape
    if dim <= NARROW and isinstance(X, np.ndarray):
        return float(np.linalg.eigvalsh(X.T @ X / N)[-1])
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    smaller = min(N, dim)  # X'X and XX' have the same eigenvalues, but for zeros
    if smaller == 1:
        return float(squared_lengths(X).sum() / N)
    product = (lambda v: X.T @ (X @ v)) if smaller == dim else (lambda v: X @ (X.T @ v))
    gram = LinearOperator((smaller, smaller), product, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(smaller)
    try:
        found = eigsh(gram, k=1, v0=start, tol=PRECISION, return_eigenvectors=False)[0]
    except ArpackNoConvergence:
        return float(squared_lengths(X).max())
    return float((1 + PRECISION) * found / N)


def unit(rows: np.ndarray) -> np.ndarray:
    """The rows, each scaled to length 1 but for those of zeros, in place."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(lengths > 0, lengths, 1)
    return rows


def scaled(rows: AnyRows, what: str) -> AnyRows:
    """The rows, scaled alike so that the longest has length 1, in place. Raises UserError where all are zero."""
    matrix: Any = rows
    values = matrix if isinstance(matrix, np.ndarray) else matrix.data
    largest = np.abs(values).max(initial=0)
    if not largest:
        raise UserError(f"{what}: all numbers of the rows are zero")
    if not FAIR < largest < 1 / FAIR:  # whose squares are none, or too large
        values /= largest
    values /= squared_lengths(rows).max() ** 0.5
    return rows
