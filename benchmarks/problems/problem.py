"""What a problem is to a program, and where its shares are built."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from mpi4py import MPI

from outpace.comm.arrays import to_host


class Objective:
    """What every rank knows of an objective. Vectors are flat, shape (dim,), on the backend's device."""

    xp: ModuleType  # numpy or cupy
    dim: int
    n_samples: int  # this worker's
    n_total: int  # all workers'

    # What some problems know beside these; None where it is not known.
    label_counts: np.ndarray | None = None  # shape (labels,): this worker's samples of each label
    L: float | None = None  # largest smoothness constant of what the objective is a mean of
    L_mean_square: float | None = None  # root mean square of these constants, or a bound on it
    zeta2: float | None = None  # (1/n) sum |grad f_i - grad f|^2 of the n workers, at x_star
    mu: float | None = None  # strong convexity of the objective, or a bound on its curvature from below
    shapes: Sequence[tuple[int, ...]] | None = None  # of the parameters that x holds, one after the other in C order
    x_star: Any = None  # where the whole objective has its minimum
    parameters: dict[str, tuple[int, ...]] | None = None  # of a network: names and shapes, in the order of x

    def x0(self) -> Any:
        """The start, the same on every worker; a new array of the run's dtype."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Arrays beside x that gradients change in place, by name: with them a run goes on from its checkpoint."""
        return {}


class Problem(Objective):
    """One worker's share of an objective: base of every problem."""

    f_star: float | None = None  # minimum of the whole objective, where it is known
    calls = 0  # gradients of this worker before the next one, which draws by this number what it draws

    def loss(self, x: Any) -> float:
        """f_i(x) over all samples of this worker, in the precision of x."""
        raise NotImplementedError

    def gradient(self, x: Any, batch: np.ndarray | None, out: Any) -> None:
        """Mean gradient over `batch` (sample numbers, shape (b,)) into `out`; over all samples if None."""
        raise NotImplementedError

    def evaluate(self, x: Any, out: Any) -> float:
        """The loss at x, and the full gradient there into `out`, for the trace: a problem may estimate both by the same
        samples at every x."""
        self.gradient(x, None, out)
        return self.loss(x)

    def held_out(self, x: Any) -> tuple[float, int, int] | None:
        """Of this worker's held-out samples: the sum of their losses at x, in the precision of x or of the run; how
        many are classified correctly; and how many there are. None where the problem holds none out."""
        return None

    def save(self, x: Any, file: BinaryIO) -> None:
        """Write the network at x, as torch saves a state dict. Only of a problem with `parameters`."""
        raise NotImplementedError

    def answer(self, comm: MPI.Intracomm, x: np.ndarray) -> dict[str, float]:
        """How far x, float64, is from what is known otherwise; collective over comm, whose ranks have a share each."""
        return {}


@dataclass(frozen=True)
class Setting:
    """Where and how shares are built: this process holds `workers`, of `n` over the processes of `comm`."""

    comm: MPI.Intracomm
    workers: Sequence[int]
    n: int
    split: str
    seed: int
    dtype: str
    xp: ModuleType
    batch_size: int = 1  # samples of a gradient


class Unshared(Objective):
    """The objective as a rank knows it that holds no samples of it, a server: its size and its start, on the host."""

    xp = np
    n_samples = calls = 0

    def __init__(self, comm: MPI.Intracomm, shares: Sequence[Problem]) -> None:
        """Rank 0, which has a share, tells the others; collective."""
        if comm.rank == 0:
            self._x0, self.n_total = to_host(shares[0].x0()), shares[0].n_total
            comm.bcast((len(self._x0), self._x0.dtype, self.n_total))
        else:
            dim, dtype, self.n_total = comm.bcast(None)
            self._x0 = np.empty(dim, dtype)
        comm.Bcast(self._x0)
        self.dim = len(self._x0)

    def x0(self) -> np.ndarray:
        return self._x0.copy()
