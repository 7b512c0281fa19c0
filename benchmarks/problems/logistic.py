"""Logistic regression on two classes, with an l2 or a bounded non-convex penalty.

    f_j(x) = log(1 + exp(-y_j a_j'x)) + weight/2 |x|^2              l2
                                      + weight sum_c x_c^2 / (1 + x_c^2)    nonconvex

Made data: rows a_j of normal entries scaled to length 1, and labels drawn from the model at a random x. There is no
intercept; a column of ones in a data file makes one.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from outpace.benchmarks.problems.problem import Setting
from outpace.benchmarks.problems.rows import (
    NARROW,
    SOLVABLE,
    Data,
    Rows,
    Share,
    largest_eigenvalue,
    share_out,
    squared_lengths,
    unit,
)
from outpace.benchmarks.problems.size import Size
from outpace.comm.spec import NonNegativeFloat, PositiveInt
from outpace.comm.streams import MADE_DATA

MARGIN: Final = 3.0  # standard deviation of a'x over the made rows
NEWTON_STEPS: Final = 50


@dataclass(frozen=True, kw_only=True)
class Penalised:
    penalty: Literal["l2", "nonconvex"] = "l2"
    weight: NonNegativeFloat = 1e-3  # of the penalty


@dataclass(frozen=True, kw_only=True)
class Spec(Penalised):
    samples: PositiveInt
    dim: PositiveInt

    def size(self) -> Size:
        squares = 2 * self.dim**2 if self.dim <= NARROW else 0
        return Size(self.samples, self.dim, labels=2, row=self.dim, root=squares)


class Logistic(Rows):
    """One worker's samples. `L` and `L_mean_square` are of the f_j, `mu` bounds the curvature of the objective from
    below; `x_star` and `f_star` are known for the l2 penalty where the data is not too large."""

    def __init__(self, spec: Penalised, setting: Setting, share: Share) -> None:
        super().__init__(share.rows, share.n_total, setting)
        assert share.labels is not None
        self.label_counts = np.array([(share.labels < 0).sum(), (share.labels > 0).sum()])
        self.y = self.xp.asarray(share.labels.astype(self.dtype))
        self.penalty, self.penalty_weight = spec.penalty, spec.weight
        largest, mean_square = share.facts["smoothness"]
        # the second derivative of t^2 / (1 + t^2) lies in [-1/2, 2]
        bend, self.mu = (spec.weight, spec.weight) if spec.penalty == "l2" else (2 * spec.weight, -spec.weight / 2)
        self.L, self.L_mean_square = largest + bend, mean_square + bend
        self.x_star, self.f_star = share.facts["minimum"]
        self._scratch = self.xp.empty(self.dim, self.dtype)

    def x0(self) -> Any:
        return self.xp.zeros(self.dim, self.dtype)

    def loss(self, x: Any) -> float:
        xp = self.xp
        fit = float(xp.logaddexp(0, -self.y * (self.X @ x)).mean())
        square = x * x
        bound = 0.5 * square if self.penalty == "l2" else square / (1 + square)
        return self.weight * (fit + self.penalty_weight * float(bound.sum()))

    def gradient(self, x: Any, batch: np.ndarray | None, out: Any) -> None:
        xp = self.xp
        if batch is not None:
            batch = xp.asarray(batch)  # on a device, once
        A, y = (self.X, self.y) if batch is None else (self.X[batch], self.y[batch])
        z = A @ x
        z *= y
        z *= 0.5
        xp.tanh(z, out=z)
        z -= 1
        z *= y  # twice the derivative by a'x: 1/(1 + exp(t)) = (1 - tanh(t/2)) / 2
        z *= 0.5 * self.weight / len(y)
        self.combine(z, A, out)
        scratch = self._scratch
        if self.penalty == "l2":
            xp.multiply(x, self.penalty_weight * self.weight, out=scratch)
        else:
            xp.multiply(x, x, out=scratch)
            scratch += 1
            scratch *= scratch
            xp.divide(x, scratch, out=scratch)
            scratch *= 2 * self.penalty_weight * self.weight
        out += scratch

    def curvatures(self, x: Any) -> tuple[Any, Any]:
        """The Hessian of f_j at x is h_j a_j a_j' + diag(p): h, shape (n_samples,), and p, shape (dim,)."""
        h = 0.25 / self.xp.square(self.xp.cosh(0.5 * (self.X @ x)))
        if self.penalty == "l2":
            return h, self.xp.full_like(x, self.penalty_weight)
        square = x * x
        return h, 2 * self.penalty_weight * (1 - 3 * square) / (1 + square) ** 3


def build(spec: Spec, setting: Setting) -> list[Logistic]:
    def make() -> Data:
        rng = np.random.default_rng([MADE_DATA, setting.seed, 0])
        X = unit(rng.standard_normal((spec.samples, spec.dim)))
        x = rng.standard_normal(spec.dim)
        margins = X @ x
        margins *= MARGIN / margins.std() if spec.samples > 1 else 1
        y = np.where(rng.random(spec.samples) < 1 / (1 + np.exp(-margins)), 1.0, -1.0)
        return prepared(Data(X, y), spec)

    return [Logistic(spec, setting, share) for share in share_out(setting, make, "--problem logistic")]


def prepared(data: Data, spec: Penalised) -> Data:
    """The data with its smoothness and, where that can be found, the minimum of the objective."""
    X, y = data.rows, data.labels
    assert y is not None
    N, dim = X.shape
    longest = float(squared_lengths(X).max())
    spread = largest_eigenvalue(X)  # E |a a'u|^2 <= longest spread |u|^2
    data.facts["smoothness"] = longest / 4, (longest * spread) ** 0.5 / 4
    known = spec.penalty == "l2" and spec.weight > 0 and N * dim**2 <= SOLVABLE
    data.facts["minimum"] = newton(X, y, spec.weight)[-1] if known else (None, None)
    return data


def newton(X: np.ndarray, y: np.ndarray, weight: float) -> list[tuple[np.ndarray, float]]:
    """Plain Newton's iterates x from 0 with the l2 penalty, and their objectives, until it no longer falls; by LAPACK.

    A step is halved until the objective is no larger, which from 0 is hardly ever needed.
    """
    N, dim = X.shape

    def objective(x: np.ndarray) -> float:
        return float(np.logaddexp(0, -y * (X @ x)).mean() + 0.5 * weight * x @ x)

    x = np.zeros(dim)
    iterates = [(x, objective(x))]
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(y * (X @ x)))
        g = -(X.T @ (y * p)) / N + weight * x
        H = (X.T * (p * (1 - p))) @ X / N + weight * np.eye(dim)
        step = np.linalg.solve(H, g)
        while objective(x - step) > iterates[-1][1] and np.abs(step).max() > 1e-16:
            step *= 0.5
        if np.linalg.norm(step) <= 1e-14 * np.linalg.norm(x):
            break
        x = x - step
        iterates.append((x, objective(x)))
    return iterates
