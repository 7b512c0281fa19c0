"""Sums of functions of one row a_j of a data matrix each, and where the rows come from.

The objective of these problems is the mean over all rows, however they are dealt: f_i is N-weighted, (n n_i / N) times
the mean over worker i's rows, so that (1/n) sum f_i does not depend on the workers. Rows are dense. A worker keeps its
own once, in the order of the deal; whatever the number of workers, `iid` deals the same order.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.problems import splits
from outpace.benchmarks.problems.problem import Problem, Setting
from outpace.comm import agreement
from outpace.comm.errors import UserError

ROWS: Final = 7  # message tag


@dataclass
class Data:
    """All rows, float64, shape (N, dim), their labels if any, shape (N,), and what was found out about them."""

    rows: np.ndarray
    labels: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)  # small: told to every rank


class Rows(Problem):
    """One worker's rows X, shape (n_samples, dim)."""

    def __init__(self, rows: np.ndarray, n_total: int, setting: Setting) -> None:
        self.xp, self.dtype = setting.xp, np.dtype(setting.dtype)
        self.X = self.xp.asarray(rows)
        self.n_samples, self.n_total = len(rows), n_total
        self.weight = setting.n * self.n_samples / n_total  # of the mean over the rows here in f_i
        self.dim = rows.shape[1]

    def product(self, c: Any, v: Any, batch: np.ndarray | None, out: Any) -> None:
        """out <- f_i's weight times the mean over the batch of c_j a_j (a_j'v); c has shape (n_samples,), or is None
        for 1. Vectors have the size of a row."""
        A = self.X if batch is None else self.X[batch]
        z = A @ v
        if c is not None:
            z *= c if batch is None else c[batch]
        z *= self.weight / len(A)
        self.xp.dot(z, A, out=out)

    def answer(self, comm: MPI.Intracomm, x: np.ndarray) -> dict[str, float]:
        """How far x is from what is known, by LAPACK; collective over comm, whose ranks have a share each."""
        if self.x_star is None:
            return {}
        return {"relative error": float(np.linalg.norm(x - self.x_star) / np.linalg.norm(self.x_star))}


@dataclass
class Share:
    """What one worker gets of `Data`."""

    rows: np.ndarray
    labels: np.ndarray | None
    n_total: int
    facts: dict[str, Any]


def share_out(setting: Setting, make: Callable[[], Data]) -> list[Share]:
    """The shares of `setting.workers`. Rank 0 makes the data, deals it and sends each worker its rows; collective.

    Raises UserError, on every rank, where `make` or the split does.
    """
    comm, dtype = setting.comm, np.dtype(setting.dtype)
    held = comm.gather(list(setting.workers)) or []

    def deal() -> tuple[Data, list[np.ndarray]]:
        data = make()
        N = len(data.rows)
        return data, splits.deal(setting.split, data.labels, setting.n, setting.seed, N, in_order=True)

    dealt = agreement.on_root(comm, deal)
    sizes = comm.bcast(dealt and ([len(part) for part in dealt[1]], *dealt[0].rows.shape, dealt[0].facts))
    amounts, n_total, dim, facts = sizes
    shares = []
    if dealt:
        data, deck = dealt
        for rank, workers in enumerate(held):
            for worker in workers:
                rows = data.rows[deck[worker]].astype(dtype, copy=False)
                labels = None if data.labels is None else data.labels[deck[worker]]
                if rank == comm.rank:
                    shares.append(Share(rows, labels, n_total, facts))
                else:
                    comm.Send(rows, rank, ROWS)
                    comm.send(labels, rank, ROWS)
    else:
        for worker in setting.workers:
            rows = np.empty((amounts[worker], dim), dtype)
            comm.Recv(rows, 0, ROWS)
            shares.append(Share(rows, comm.recv(source=0, tag=ROWS), n_total, facts))
    return shares


def unit(rows: np.ndarray) -> np.ndarray:
    """The rows, each scaled to length 1, in place."""
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def scaled(rows: np.ndarray) -> np.ndarray:
    """The rows, scaled alike, in place, so that the longest has length 1."""
    rows /= np.linalg.norm(rows, axis=1).max()
    return rows


def read_libsvm(path: str | Path, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, dim) and labels (N,) of a file in LIBSVM's format: `label index:value ...`, indices from 1, ascending.

    Raises UserError with the number of the first malformed line.
    """
    labels: list[float] = []
    indices: list[np.ndarray] = []
    values: list[np.ndarray] = []
    try:
        with open(path) as file:
            for number, line in enumerate(file, 1):
                label, *pairs = line.partition("#")[0].split() or [""]
                if not label:
                    continue
                try:
                    split = [pair.split(":") for pair in pairs]
                    labels.append(float(label))
                    indices.append(np.array([int(index) for index, _ in split], dtype=np.int64))
                    values.append(np.array([float(value) for _, value in split]))
                except ValueError:
                    raise UserError(f"{what}: {path}, line {number}: not of the form 'label index:value ...'") from None
                if len(pairs) and (indices[-1][0] < 1 or (np.diff(indices[-1]) <= 0).any()):
                    raise UserError(f"{what}: {path}, line {number}: indices must start at 1 and ascend")
                if not (np.isfinite(labels[-1]) and np.isfinite(values[-1]).all()):
                    raise UserError(f"{what}: {path}, line {number}: a number is not finite")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UserError(f"{what}: cannot read {path}: {reason}") from None
    dim = max((int(index[-1]) for index in indices if len(index)), default=0)
    if not dim:
        raise UserError(f"{what}: {path} holds no data")
    rows = np.zeros((len(labels), dim))
    for row, index, value in zip(rows, indices, values, strict=True):
        row[index - 1] = value
    return rows, np.array(labels)
