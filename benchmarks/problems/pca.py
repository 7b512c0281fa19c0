"""Shift and invert: a sum of functions each of which is non-convex, while the sum is strongly convex.

    f_j(x) = 1/2 x'(lambda I - a_j a_j')x - b'x,   lambda = gap + the largest eigenvalue of C = (1/N) sum a_j a_j'

The minimum is at (lambda I - C)^{-1} b: a step of inverse iteration towards the leading component of the rows. b is a
random vector of length 1. Made rows have normal entries, the c-th scaled by c^(-decay/2), and are scaled to length 1
each; the rows of given data are scaled alike, the longest to length 1. The sum is Katyusha X's application; the made
instances are ours, not those of its paper.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np

from outpace.benchmarks.problems.data_files import read_libsvm
from outpace.benchmarks.problems.digits import IMAGES, PIXELS, WHITE
from outpace.benchmarks.problems.problem import Setting
from outpace.benchmarks.problems.rows import Data, Rows, Share, dense, scaled, share_out, unit
from outpace.benchmarks.problems.size import Size
from outpace.comm import memory
from outpace.comm.errors import UserError
from outpace.comm.spec import Input, NonNegativeFloat, PositiveFloat, PositiveInt, Switch
from outpace.comm.streams import MADE_DATA

MADE: Final = "made"
SQUARES: Final = 4  # matrices of dim x dim numbers that LAPACK has at a time to find all components
DIGITS: Final = "digits"


@dataclass(frozen=True, kw_only=True)
class Source:
    data: Annotated[str, Input(besides=(MADE, DIGITS))] = MADE  # made, digits, or the path of a file in LIBSVM's format
    samples: PositiveInt | None = None  # of made data
    dim: PositiveInt | None = None  # of made data
    decay: NonNegativeFloat = 0.0  # of made data: how fast the variances of its columns fall
    centre: Switch = 0  # subtract the mean of the rows: principal components

    def size(self) -> Size | None:
        """None where the data is in a file, or not said."""
        samples, dim = (IMAGES, PIXELS) if self.data == "digits" else (self.samples, self.dim)
        if samples is None or dim is None:
            return None
        return Size(samples, dim, row=dim, root=samples * dim + SQUARES * dim**2)


@dataclass(frozen=True, kw_only=True)
class Spec(Source):
    gap: PositiveFloat = 2e-3  # lambda less the largest eigenvalue


class Pca(Rows):
    """One worker's rows. `L` and `L_mean_square` are of the f_j, the latter exact where all rows have length 1 and else
    a bound; `mu`, `x_star` and `f_star` of the objective."""

    def __init__(self, spec: Spec, setting: Setting, share: Share) -> None:
        super().__init__(share.rows, share.n_total, setting)
        facts = share.facts
        self.shift, self.mu = facts["largest"] + spec.gap, spec.gap
        self.L, self.L_mean_square = smoothness(self.shift, facts["longest"], facts["largest"], facts["smallest"])
        self.x_star, self.f_star = facts["minimum"]
        self._b = self.xp.asarray(facts["b"].astype(self.dtype))
        self._scratch = self.xp.empty(self.dim, self.dtype)

    def x0(self) -> Any:
        return self.xp.zeros(self.dim, self.dtype)

    def loss(self, x: Any) -> float:
        z = self.X @ x
        return self.weight * float(0.5 * self.shift * (x @ x) - 0.5 * (z @ z) / self.n_samples - self._b @ x)

    def gradient(self, x: Any, batch: np.ndarray | None, out: Any) -> None:
        self.product(None, x, batch, out)
        self.xp.multiply(x, self.shift, out=self._scratch)
        self._scratch -= self._b
        self._scratch *= self.weight
        self.xp.subtract(self._scratch, out, out=out)


def smoothness(shift: float, longest: float, largest: float, smallest: float) -> tuple[float, float]:
    """L of the f_j, and of their mean square, for squared lengths of rows up to `longest` and eigenvalues of C between
    `smallest` and `largest`: E |(shift I - a a')u|^2 = shift^2 |u|^2 + E (|a|^2 - 2 shift)(a'u)^2."""
    excess = longest - 2 * shift
    square = shift**2 + excess * (largest if excess > 0 else smallest)
    return max(shift, longest - shift), square**0.5


def load(spec: Source, seed: int, what: str) -> np.ndarray:
    """The rows that a SPEC means, shape (N, dim). Raises UserError."""
    if spec.data != MADE:
        if spec.samples or spec.dim or spec.decay:
            raise UserError(f"{what}: samples, dim and decay are of made data; leave them out, or data=")
        if spec.data == DIGITS:
            from sklearn.datasets import load_digits  # slow to import, and only rank 0 needs it

            X: np.ndarray = load_digits().data / WHITE
        else:
            read, _ = read_libsvm(spec.data, what)
            N, dim = read.shape
            memory.require(8 * (2 * N * dim + SQUARES * dim**2), f"{what}: {spec.data} of {N} x {dim} numbers")
            X = dense(read, what)
        if spec.centre:
            X -= X.mean(axis=0)
        return scaled(X, f"{what}: {spec.data}")
    if spec.samples is None or spec.dim is None:
        raise UserError(f"{what}: needs samples= and dim=, or data=digits, or data=FILE")
    X = np.random.default_rng([MADE_DATA, seed, 0]).standard_normal((spec.samples, spec.dim))
    X *= np.arange(1, X.shape[1] + 1) ** (-spec.decay / 2)
    if spec.centre:
        X -= X.mean(axis=0)
    if not X.any():
        raise UserError(f"{what}: all numbers of the rows are zero")
    return unit(X)


def build(spec: Spec, setting: Setting) -> list[Pca]:
    def make() -> Data:
        X = load(spec, setting.seed, "--problem pca")
        N, dim = X.shape
        b = unit(np.random.default_rng([MADE_DATA, setting.seed, 1]).standard_normal((1, dim)))[0]
        eigenvalues, V = np.linalg.eigh(X.T @ X / N)
        x_star = V @ ((V.T @ b) / (eigenvalues[-1] + spec.gap - eigenvalues))
        facts = {
            "b": b,
            "longest": float(np.square(X).sum(axis=1).max()),
            "largest": float(eigenvalues[-1]),
            "smallest": float(max(0.0, eigenvalues[0])),
            "minimum": (x_star, float(-0.5 * b @ x_star)),
        }
        return Data(X, None, facts)

    return [Pca(spec, setting, share) for share in share_out(setting, make, "--problem pca")]
