"""Logistic regression on a data file in LIBSVM's format, with two labels, the larger one the positive class; the rows
are scaled alike, the longest to length 1, so that step sizes mean the same on all data."""

from dataclasses import dataclass

import numpy as np

from outpace.benchmarks.problems.data_files import read_libsvm, tell
from outpace.benchmarks.problems.logistic import Logistic, Penalised, prepared
from outpace.benchmarks.problems.problem import Setting
from outpace.benchmarks.problems.rows import Data, scaled, share_out, sparse_where_large
from outpace.benchmarks.problems.size import NUMBER, VECTORS
from outpace.comm import memory
from outpace.comm.errors import UserError
from outpace.comm.spec import InputFile

WHAT = "--problem libsvm"


@dataclass(frozen=True, kw_only=True)
class Spec(Penalised):
    path: InputFile  # as rank 0 sees it

    def size(self) -> None:
        """Not known before the file is read."""


def build(spec: Spec, setting: Setting) -> list[Logistic]:
    def make() -> Data:
        X, labels = read_libsvm(spec.path, WHAT)
        y = signs(labels, spec.path)
        memory.require(NUMBER * VECTORS * X.shape[1], f"{WHAT}: {spec.path} of {X.shape[1]} columns")
        return prepared(Data(scaled(sparse_where_large(X, f"{WHAT}: {spec.path}"), f"{WHAT}: {spec.path}"), y), spec)

    return [Logistic(spec, setting, share) for share in share_out(setting, make, f"{WHAT}:path={spec.path}")]


def signs(labels: np.ndarray, path: str) -> np.ndarray:
    """-1 and +1 for the smaller and the larger one of two labels. Raises UserError where there are not two."""
    kinds = np.unique(labels)
    if set(kinds) <= {-1.0, 1.0}:
        return labels
    if len(kinds) != 2:
        found = ", ".join(f"{label:g}" for label in kinds[:4]) + ", ..." * (len(kinds) > 4)
        raise UserError(f"{WHAT}: {path} has the label(s) {found}; there must be two, such as -1 and +1")
    tell(path, WHAT, [f"labels {kinds[0]:g} and {kinds[1]:g} were read as -1 and +1"])
    return np.where(labels == kinds[1], 1.0, -1.0)
