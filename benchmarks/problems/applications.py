"""Applications whose outer loop poses one sum of functions after the other; `katyusha_x --application` minimises them.

Each has a `sum`, a problem as the program sees it, which `pose` changes; the model of the run is `model(y)` for y the
sum's current iterate. All of it is collective, and every rank decides from the same numbers. `kept` is what changes
from stage to stage, as `Budget.keep` wants it.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.problems.logistic import Logistic
from outpace.benchmarks.problems.svd import Svd
from outpace.comm.arrays import copy, twin
from outpace.comm.errors import UserError

TIMES: Final = {"newton": 1, "proximal-point": 2}  # sigma, in the curvature of a sum
WARM_UP: Final = 10  # power steps before the first shift of a component
RESIDUAL: Final = 1e-9  # of a component, over its eigenvalue, at which it is found; or 100 units of rounding
NEEDS: Final[dict[str, tuple[type[Any], str]]] = {
    "pca": (Svd, "svd"),
    "svd": (Svd, "svd"),
    "newton": (Logistic, "logistic, libsvm"),
    "proximal-point": (Logistic, "logistic, libsvm"),
}


def check(cfg: Any, problem: Any) -> None:
    """Raise UserError where the application cannot be run on the problem."""
    kind, allowed = NEEDS[cfg.application]
    if not isinstance(problem, kind):
        raise UserError(f"--application {cfg.application} does not fit the problem; allowed: {allowed}")
    if cfg.prox != "none":
        raise UserError(f"--application {cfg.application} takes no --prox")
    if cfg.application in ("newton", "proximal-point"):
        times = TIMES[cfg.application]
        sigma, least = regularisation(cfg, problem), max(0.0, -problem.mu) / times
        if not problem.mu + times * sigma > 0:
            raise UserError(f"--regularisation is {sigma:g}; {cfg.application} needs more than {least:g} here")


def regularisation(cfg: Any, problem: Any) -> float:
    """sigma: as given; else what makes the sums as convex as f is non-convex, and 0 for Newton on convex f."""
    if cfg.regularisation is not None:
        return float(cfg.regularisation)
    if cfg.application == "newton" and problem.mu > 0:
        return 0.0
    return 2 * abs(float(problem.mu)) / TIMES[cfg.application]


def begin(cfg: Any, problem: Any, comm: MPI.Intracomm, trace: Any) -> Any:
    """The application of `cfg`, or the problem itself as its only sum."""
    if cfg.application == "none":
        return Whole(problem)
    if cfg.application == "proximal-point":
        return ProximalPoint(problem, regularisation(cfg, problem))
    reduction = Reduction(comm, trace)
    if cfg.application == "newton":
        return Newton(problem, regularisation(cfg, problem), reduction)
    return Components(problem, reduction)


class Whole:
    """No application: the problem is the sum, once and for all."""

    stages = False
    done = False

    def __init__(self, problem: Any) -> None:
        self.sum = problem
        self.kept: dict[str, Any] = {}

    def pose(self, y: Any) -> None:
        pass

    def model(self, y: Any) -> Any:
        return y


class Reduction:
    """The mean over the ranks, as an event of the trace."""

    def __init__(self, comm: MPI.Intracomm, trace: Any) -> None:
        self.comm, self._trace = comm, trace

    def mean(self, v: Any) -> None:
        """v <- the mean of all ranks' v"""
        v_wire = twin(v, self.comm)
        copy(v, v_wire)
        with self._trace.phase("allreduce", nbytes=v.nbytes):
            self.comm.Allreduce(MPI.IN_PLACE, v_wire)
        copy(v_wire, v)
        v /= self.comm.size

    def agree(self, numbers: np.ndarray) -> None:
        """numbers <- those of rank 0: what is decided from them is then the same everywhere, to the bit."""
        self.comm.Bcast(numbers)


class Sum:
    """Worker i's part of a sum over the same samples as `problem`, whose paced calls it uses. Its weight in the mean
    over the workers is that of its rows, see `rows`."""

    L: float
    L_mean_square: float
    mu: float
    f_star = None

    def __init__(self, problem: Any, dim: int) -> None:
        self.problem, self.xp, self.dim = problem, problem.xp, dim
        self.n_samples, self.n_total, self.weight = problem.n_samples, problem.n_total, problem.weight
        self._scratch = self.xp.empty(dim, problem.dtype)

    def x0(self) -> Any:
        return self.xp.zeros(self.dim, self.problem.dtype)


class ProximalSum(Sum):
    """f(x) + sigma |x - centre|^2"""

    def __init__(self, problem: Any, sigma: float) -> None:
        super().__init__(problem, problem.dim)
        self.sigma, self.centre = sigma, problem.x0()
        self.L, self.L_mean_square = problem.L + 2 * sigma, problem.L_mean_square + 2 * sigma
        self.mu = problem.mu + 2 * sigma

    def x0(self) -> Any:
        return self.problem.x0()

    def gradient(self, x: Any, batch: np.ndarray | None, out: Any) -> None:
        self.problem.gradient(x, batch, out)
        self.xp.subtract(x, self.centre, out=self._scratch)
        self._scratch *= 2 * self.sigma * self.weight
        out += self._scratch


class ProximalPoint:
    """x_{s+1} = argmin f(x) + sigma |x - x_s|^2"""

    stages = True
    done = False

    def __init__(self, problem: Any, sigma: float) -> None:
        self.sum = ProximalSum(problem, sigma)
        self.kept = {"centre": self.sum.centre}

    def pose(self, y: Any) -> None:
        self.sum.centre[:] = y

    def model(self, y: Any) -> Any:
        return y


class NewtonSum(Sum):
    """g'p + 1/2 p'(H + sigma I)p, with g and H of the objective at x: f_j has H_j = h_j a_j a_j' + diag(d)."""

    def __init__(self, problem: Any, sigma: float) -> None:
        super().__init__(problem, problem.dim)
        self.sigma, self.g = sigma, self.xp.zeros(self.dim, problem.dtype)
        self.L, self.L_mean_square = problem.L + sigma, problem.L_mean_square + sigma  # at any x
        self.mu = problem.mu + sigma
        self.h, self.d = problem.curvatures(problem.x0())

    def expand(self, x: Any) -> None:
        """Take H of the objective at x; g is the caller's, who has the other workers' as well."""
        self.h[:], self.d[:] = self.problem.curvatures(x)
        self.d += self.sigma

    def gradient(self, p: Any, batch: np.ndarray | None, out: Any) -> None:
        self.problem.product(self.h, p, batch, out)
        self.xp.multiply(p, self.d, out=self._scratch)
        self._scratch += self.g
        self._scratch *= self.weight
        out += self._scratch


class Newton:
    """x_{s+1} = x_s + argmin_p of the quadratic model at x_s"""

    stages = True
    done = False

    def __init__(self, problem: Any, sigma: float, reduction: Reduction) -> None:
        self.sum, self._problem, self._reduction = NewtonSum(problem, sigma), problem, reduction
        self.x = problem.x0()
        self.kept = {"base": self.x, "g": self.sum.g, "h": self.sum.h, "d": self.sum.d}
        self._model = self.x.copy()

    def pose(self, p: Any) -> None:
        self.x += p
        p[:] = 0
        self._problem.gradient(self.x, None, self.sum.g)
        self._reduction.mean(self.sum.g)
        self.sum.expand(self.x)

    def model(self, p: Any) -> Any:
        self.sum.xp.add(self.x, p, out=self._model)
        return self._model


class ShiftedSum(Sum):
    """1/2 u'(shift I - P C P)u - b'u, with P the projection that takes the first components in V out"""

    def __init__(self, problem: Any) -> None:
        super().__init__(problem, problem.row_dim)
        self.V = problem.x0().reshape(problem.rank, -1)  # orthonormal components, and then what is not found yet
        self.b = self.xp.zeros(self.dim, problem.dtype)
        self.numbers = np.array([0.0, problem.longest])  # how many are found, the shift
        self.mu = problem.gap
        self._u = self.xp.empty(self.dim, problem.dtype)

    @property
    def found(self) -> int:
        return int(self.numbers[0])

    @property
    def shift(self) -> float:
        return float(self.numbers[1])

    @property
    def L(self) -> float:  # type: ignore[override]
        return float(max(self.shift, self.problem.longest - self.shift))

    @property
    def L_mean_square(self) -> float:  # type: ignore[override]
        largest = self.shift - self.mu  # eigenvalue of P C P, at most
        return float((self.shift**2 + max(0.0, self.problem.longest - 2 * self.shift) * largest) ** 0.5)

    def project(self, u: Any) -> None:
        if self.found:
            V = self.V[: self.found]
            u -= (V @ u) @ V

    def product(self, u: Any, batch: np.ndarray | None, out: Any) -> None:
        """out <- P S P u, with S the weighted mean of a a' over the batch"""
        self._u[:] = u
        self.project(self._u)
        self.problem.product(None, self._u, batch, out)
        self.project(out)

    def gradient(self, u: Any, batch: np.ndarray | None, out: Any) -> None:
        self.product(u, batch, out)
        self.xp.multiply(u, self.shift, out=self._scratch)
        self._scratch -= self.b
        self._scratch *= self.weight
        self.xp.subtract(self._scratch, out, out=out)


@dataclass
class Estimate:
    """How good a vector of length 1 is as a component."""

    quotient: float  # Rayleigh's
    residual: float  # |P C v - quotient v|


class Components:
    """Inverse iteration: v <- u / |u| with (shift I - P C P)u = v, until the residual is small; then the next one."""

    stages = True

    def __init__(self, problem: Any, reduction: Reduction) -> None:
        self.sum, self._reduction = ShiftedSum(problem), reduction
        self.kept = {"V": self.sum.V, "b": self.sum.b, "numbers": self.sum.numbers}
        self._Cv = self.sum.x0()
        self._model = problem.x0()

    @property
    def done(self) -> bool:
        return self.sum.found == len(self.sum.V)

    def pose(self, u: Any) -> None:
        """From the solution u of the last sum, zero before the first, to the next one and its start."""
        if self.done:
            return
        estimate = self._improve(u) if bool(u.any()) else self._warm_up()
        small = max(RESIDUAL, 100 * float(np.finfo(u.dtype).eps))
        while estimate.residual <= small * estimate.quotient:
            self.sum.numbers[0] += 1
            if self.sum.found == len(self.sum.V):
                return
            estimate = self._warm_up()
        # the residual: the quotient may still be that much below the eigenvalue
        self.sum.numbers[1] = estimate.quotient + self.sum.mu + 2 * estimate.residual
        self.sum.b[:] = self.sum.V[self.sum.found]
        u[:] = self.sum.b
        u /= self.sum.shift - estimate.quotient

    def model(self, u: Any) -> Any:
        V = self._model.reshape(self.sum.V.shape)
        V[:] = self.sum.V
        if not self.done:
            v = V[self.sum.found]
            v[:] = u
            self.sum.project(v)
            v /= float(v @ v) ** 0.5
        return self._model

    def _improve(self, u: Any) -> Estimate:
        """Take u's direction as the component that is sought."""
        v = self.sum.V[self.sum.found]
        v[:] = u
        self.sum.project(v)
        self._normalise(v)
        return self._estimate(v)

    def _warm_up(self) -> Estimate:
        v = self.sum.V[self.sum.found]
        self.sum.project(v)
        for _ in range(WARM_UP):
            self._estimate(v)
            v[:] = self._Cv
            self._normalise(v)
        return self._estimate(v)

    def _normalise(self, v: Any) -> None:
        norm = np.array([float(v @ v) ** 0.5])
        self._reduction.agree(norm)
        v /= norm[0]

    def _estimate(self, v: Any) -> Estimate:
        """Of v, after a full product, which is left in Cv."""
        Cv = self._Cv
        self.sum.product(v, None, Cv)
        self._reduction.mean(Cv)
        quotient = float(v @ Cv) / float(v @ v)
        numbers = np.array([quotient, float(((Cv - quotient * v) ** 2).sum()) ** 0.5])
        self._reduction.agree(numbers)
        return Estimate(*numbers.tolist())
