"""The k leading components of a data matrix's rows: right singular vectors, or principal components of centred rows.

    f_j(V) = 1/2 |a_j - V'V a_j|^2,   V of shape (k, dim)

The model holds the rows of V. The minimum, half the sum of the eigenvalues of C = (1/N) sum a_j a_j' but for the k
largest, is at every V whose rows are an orthonormal basis of the leading subspace. Not convex. The rows are those of
`pca`.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.problems.pca import Source, load
from outpace.benchmarks.problems.problem import Setting
from outpace.benchmarks.problems.rows import Data, Rows, Share, share_out
from outpace.benchmarks.problems.size import Size
from outpace.comm.errors import UserError
from outpace.comm.spec import PositiveFloat, PositiveInt
from outpace.comm.streams import INIT


@dataclass(frozen=True, kw_only=True)
class Spec(Source):
    rank: PositiveInt = 1  # k
    gap: PositiveFloat = 5e-3  # of shift and invert: lambda less the eigenvalue that is sought

    def size(self) -> Size | None:
        rows = super().size()
        return rows and replace(rows, dim=self.rank * rows.dim)


class Svd(Rows):
    """One worker's rows. `eigenvalues` (k,) and `components` (k, dim) are LAPACK's."""

    def __init__(self, spec: Spec, setting: Setting, share: Share) -> None:
        super().__init__(share.rows, share.n_total, setting)
        self.seed, self.rank, self.gap, self.row_dim = setting.seed, spec.rank, spec.gap, self.dim
        self.dim *= spec.rank
        facts = share.facts
        self.longest, self.eigenvalues, self.components = facts["longest"], facts["eigenvalues"], facts["components"]
        self.f_star = facts["f_star"]

    def x0(self) -> Any:
        """Random orthonormal rows."""
        V = np.random.default_rng([INIT, self.seed]).standard_normal((self.row_dim, self.rank))
        return self.xp.asarray(np.linalg.qr(V)[0].T.ravel().astype(self.dtype))

    def loss(self, x: Any) -> float:
        V = x.reshape(self.rank, -1)
        Z = self.X @ V.T
        # |a - V'Va|^2 = |a|^2 - 2 |Va|^2 + Va'VV'Va, without a copy of X
        square = float(self.X.ravel() @ self.X.ravel() - 2 * (Z * Z).sum() + ((Z @ (V @ V.T)) * Z).sum())
        return 0.5 * self.weight * square / self.n_samples

    def gradient(self, x: Any, batch: np.ndarray | None, out: Any) -> None:
        """V S V'V + V V'V S - 2 V S with S the batch's mean of a a'."""
        V, G = x.reshape(self.rank, -1), out.reshape(self.rank, -1)
        A = self.X if batch is None else self.X[batch]
        Z = A @ V.T
        VVt = V @ V.T
        G[:] = (Z @ VVt - 2 * Z).T @ A
        G += (Z.T @ Z) @ V
        G *= self.weight / len(A)

    def answer(self, comm: MPI.Intracomm, x: np.ndarray) -> dict[str, float]:
        """The largest angle between the spaces of V and of LAPACK's components, and the largest relative error of the
        Rayleigh quotients of its rows as eigenvalues."""
        V = x.reshape(self.rank, -1)
        Q = np.linalg.qr(V.T)[0]
        sine = np.linalg.norm(Q - self.components.T @ (self.components @ Q), 2)
        Z = self.X @ self.xp.asarray(V.T)
        quotients = comm.allreduce(np.array([float(z @ z) for z in Z.T])) / self.n_total / np.square(V).sum(axis=1)
        return {
            "principal angle": float(np.arcsin(min(1.0, float(sine)))),
            "relative eigenvalue error": float(np.abs(quotients / self.eigenvalues - 1).max()),
        }


def build(spec: Spec, setting: Setting) -> list[Svd]:
    def make() -> Data:
        X = load(spec, setting.seed, "--problem svd")
        N, dim = X.shape
        if spec.rank >= dim:
            raise UserError(f"--problem svd: rank is {spec.rank}; rows of {dim} numbers allow less than {dim}")
        eigenvalues, V = np.linalg.eigh(X.T @ X / N)
        facts = {
            "longest": float(np.square(X).sum(axis=1).max()),
            "eigenvalues": eigenvalues[: -spec.rank - 1 : -1].copy(),
            "components": V[:, : -spec.rank - 1 : -1].T.copy(),
            "f_star": float(0.5 * eigenvalues[: -spec.rank].sum()),
        }
        return Data(X, None, facts)

    return [Svd(spec, setting, share) for share in share_out(setting, make, "--problem svd")]
