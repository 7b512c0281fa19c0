"""Logistic regression on a data file in LIBSVM's format, with labels -1 and +1; the rows are scaled alike, the longest
to length 1, so that step sizes mean the same on all data."""

from dataclasses import dataclass

import numpy as np

from outpace.benchmarks.problems.logistic import Logistic, Penalised, prepared
from outpace.benchmarks.problems.problem import Setting
from outpace.benchmarks.problems.rows import Data, read_libsvm, scaled, share_out
from outpace.comm.errors import UserError
from outpace.comm.spec import InputFile


@dataclass(frozen=True, kw_only=True)
class Spec(Penalised):
    path: InputFile  # as rank 0 sees it


def build(spec: Spec, setting: Setting) -> list[Logistic]:
    def make() -> Data:
        X, y = read_libsvm(spec.path, "--problem libsvm")
        strange = np.setdiff1d(y, [-1, 1])
        if len(strange):
            found = ", ".join(f"{label:g}" for label in strange[:4])
            raise UserError(f"--problem libsvm: {spec.path} has the label(s) {found}; allowed: -1 and +1")
        return prepared(Data(scaled(X), y), spec)

    return [Logistic(spec, setting, share) for share in share_out(setting, make)]
