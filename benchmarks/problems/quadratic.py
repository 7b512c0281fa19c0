"""Quadratics of unequal curvature, with everything known in closed form: the problem of the theory checks.

    f_i(x) = 1/2 (x - c_i)' A_i (x - c_i),   A_i diagonal

The eigenvalues of every A_i are log-spaced in [1/condition, 1] and permuted per worker. c_i = c + zeta u_i with c
and u_i standard normal per coordinate: zeta is the spread of the workers' minima. The papers' zeta^2, which bounds
(1/n) sum |grad f_i - grad f|^2, is the attribute `zeta2`, which traces have among their `constants`: its value at the
minimum of the mean, where grad f = 0. For all x there is no bound where curvatures differ.

f_i is the mean over its samples of f_i(x) + z_j'x. z_j is normal noise, of standard deviation sigma per coordinate, and
that of sample j + n_i/2 is -z_j, so that the noise of all n_i samples cancels and the full gradient has none; the last
of an odd number has z = 0. Every z_j has a stream of its own. Where all of them together are large they are drawn anew
wherever they are needed, and never stored.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.problems import splits
from outpace.benchmarks.problems.problem import Problem, Setting
from outpace.benchmarks.problems.size import Size
from outpace.comm import agreement
from outpace.comm.arrays import to_host
from outpace.comm.errors import UserError
from outpace.comm.spec import Factor, NonNegativeFloat, PositiveInt
from outpace.comm.streams import MADE_DATA, NOISE

STORED: Final = 2**20  # numbers of a worker's noise, at most, that are kept


@dataclass(frozen=True, kw_only=True)
class Spec:
    dim: PositiveInt
    condition: Factor = 10.0  # largest over smallest eigenvalue
    sigma: NonNegativeFloat = 0.0  # standard deviation of one sample's gradient noise, per coordinate
    zeta: NonNegativeFloat = 0.0  # standard deviation of the workers' minima, per coordinate; not the papers' zeta
    samples: PositiveInt = 1024  # nominal: how many make an epoch
    rows: PositiveInt | None = None  # x is a matrix of so many rows, for programs that ask for shapes

    def __post_init__(self) -> None:
        if self.rows and self.dim % self.rows:
            raise UserError(f"--problem quadratic: rows is {self.rows}, which does not divide dim, {self.dim}")

    def size(self) -> Size:
        return Size(self.samples, self.dim, everywhere=splits.DEAL * self.samples)


class Quadratic(Problem):
    """Worker i's f_i. `L` and `mu` are those of every f_i; `x_star`, `f_star` and `zeta2` belong to their mean."""

    def __init__(self, spec: Spec, setting: Setting, worker: int, n_samples: int) -> None:
        self.xp = setting.xp
        self.dim, self.n_samples, self.n_total = spec.dim, n_samples, spec.samples
        self.shapes = [(spec.rows, spec.dim // spec.rows)] if spec.rows else None
        self.L, self.mu = 1.0, 1.0 / spec.condition
        self.dtype = np.dtype(setting.dtype)
        rng = np.random.default_rng([MADE_DATA, setting.seed, worker + 1])
        a = np.geomspace(1.0, 1.0 / spec.condition, spec.dim)
        rng.shuffle(a)
        c = np.random.default_rng([MADE_DATA, setting.seed, 0]).standard_normal(spec.dim)
        if spec.zeta:
            c += spec.zeta * rng.standard_normal(spec.dim)
        self.a = self.xp.asarray(a.astype(self.dtype))
        self.c = self.xp.asarray(c.astype(self.dtype))
        self._sigma = spec.sigma
        self._key = (NOISE, setting.seed, worker)
        self._noise = np.empty(spec.dim if spec.sigma else 0, dtype=self.dtype)
        half = n_samples // 2
        self._stored: Any = None  # z_j / sigma for j < n_i/2, shape (n_i/2, dim)
        if spec.sigma and half * spec.dim <= STORED:
            self._stored = self.xp.asarray(
                np.array([self._draw(j).copy() for j in range(half)]).reshape(half, spec.dim)
            )

    def x0(self) -> Any:
        return self.xp.zeros(self.dim, dtype=self.dtype)

    def loss(self, x: Any) -> float:
        difference = x - self.c
        return 0.5 * float((self.a * difference * difference).sum())

    def gradient(self, x: Any, batch: np.ndarray | None, out: Any) -> None:
        self.xp.subtract(x, self.c, out=out)
        out *= self.a
        if batch is None or not self._sigma:
            return
        half = self.n_samples // 2
        paired = batch[batch < 2 * half]
        weights = (self._sigma / len(batch)) * np.where(paired < half, 1.0, -1.0)
        if self._stored is not None:
            out += self.xp.asarray(weights.astype(self.dtype)) @ self._stored[paired % half]
            return
        numbers, places = np.unique(paired % half, return_inverse=True)
        for j, weight in zip(numbers, np.bincount(places, weights), strict=True):
            if weight:
                noise = self._draw(j)
                noise *= weight
                out += self.xp.asarray(noise)

    def _draw(self, j: int) -> np.ndarray:
        """z_j / sigma, in an array that the next one overwrites."""
        np.random.default_rng([*self._key, j]).standard_normal(out=self._noise, dtype=self.dtype)
        return self._noise


def build(spec: Spec, setting: Setting) -> list[Quadratic]:
    """The shares of `setting.workers`, with the minimum of the whole objective; collective."""
    comm, xp = setting.comm, setting.xp
    amounts = agreement.together(
        comm,
        lambda: [len(share) for share in splits.deal(setting.split, None, setting.n, setting.seed, spec.samples)],
    )
    shares = [Quadratic(spec, setting, worker, amounts[worker]) for worker in setting.workers]

    # sum A_i (x - c_i) = 0, coordinate by coordinate
    curvature, pull = np.zeros(spec.dim), np.zeros(spec.dim)
    for share in shares:
        a, c = (np.asarray(to_host(v), dtype=np.float64) for v in (share.a, share.c))
        curvature += a
        pull += a * c
    comm.Allreduce(MPI.IN_PLACE, curvature)
    comm.Allreduce(MPI.IN_PLACE, pull)
    x_star = xp.asarray(np.divide(pull, curvature, out=pull))
    g = xp.empty_like(x_star)
    known = np.zeros(2)  # f_star, zeta2
    for share in shares:
        share.gradient(x_star, None, g)
        known += share.loss(x_star), float(g @ g)
    comm.Allreduce(MPI.IN_PLACE, known)
    for share in shares:
        share.x_star = x_star
        share.f_star, share.zeta2 = (known / setting.n).tolist()
        if not spec.zeta:
            share.zeta2 = 0.0  # all minima are one, which rounding misses
    return shares
