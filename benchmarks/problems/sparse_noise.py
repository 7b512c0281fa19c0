"""The toy problem of signSGD with sparse noise (Bernstein et al., ICML 2018, arXiv:1802.04434, Figure A.1).

    f(x) = 1/2 |x|^2,   g = x + z e_1,   z ~ N(0, sigma^2)

All the noise is in the first coordinate: its density is 1/dim, that of the curvature 1, and that is where signSGD gains
on SGD. The paper has dim = 100 and sigma = 100, batches of one sample, and a start of its own in each repeat, standard
normal in each coordinate. Here it follows the seed.

Every f_i is f: worker i's samples are f(x) + z_j x_1, and z_j of sample j + n_i/2 is -z_j, so that the full gradient
has no noise. The last of an odd number has z = 0. The paper draws anew in each step; here `samples` are drawn once.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from outpace.benchmarks.problems import splits
from outpace.benchmarks.problems.problem import Problem, Setting
from outpace.benchmarks.problems.size import Size
from outpace.comm import agreement
from outpace.comm.spec import NonNegativeFloat, PositiveInt
from outpace.comm.streams import INIT, NOISE


@dataclass(frozen=True, kw_only=True)
class Spec:
    dim: PositiveInt
    sigma: NonNegativeFloat = 100.0  # standard deviation of one sample's noise, in the first coordinate
    samples: PositiveInt = 10_000  # the paper's number of steps

    def size(self) -> Size:
        return Size(self.samples, self.dim, everywhere=splits.DEAL * self.samples)


class SparseNoise(Problem):
    """Worker i's share; but for the noise of its samples all have the same."""

    L = mu = 1.0
    f_star = 0.0

    def __init__(self, spec: Spec, setting: Setting, worker: int, n_samples: int) -> None:
        self.xp, self.dtype = setting.xp, np.dtype(setting.dtype)
        self.dim, self.n_samples, self.n_total = spec.dim, n_samples, spec.samples
        self.x_star = self.xp.zeros(spec.dim)
        self._seed = setting.seed
        half = np.random.default_rng([NOISE, setting.seed, worker, 0]).normal(0.0, spec.sigma, n_samples // 2)
        self._z = np.concatenate([half, -half, np.zeros(n_samples % 2)])

    def x0(self) -> Any:
        x = np.random.default_rng([INIT, self._seed]).standard_normal(self.dim)
        return self.xp.asarray(x.astype(self.dtype))

    def loss(self, x: Any) -> float:
        return 0.5 * float(x @ x)

    def gradient(self, x: Any, batch: np.ndarray | None, out: Any) -> None:
        out[:] = x
        if batch is not None:
            out[0] += float(self._z[batch].mean())


def build(spec: Spec, setting: Setting) -> list[SparseNoise]:
    """The shares of `setting.workers`; collective."""
    amounts = agreement.together(
        setting.comm,
        lambda: [len(share) for share in splits.deal(setting.split, None, setting.n, setting.seed, spec.samples)],
    )
    return [SparseNoise(spec, setting, worker, amounts[worker]) for worker in setting.workers]
