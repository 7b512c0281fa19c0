"""The loss to which runs are compared by the time that they take to it."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

REACHED: Final = 0.9  # share of the runs that reach it
ROOM: Final = 0.05  # of the logarithm of what lies between it and the start


def common_loss(runs: Sequence[Run]) -> float:
    """The loss that 90 % of the runs reach, relaxed by 5 % towards the start on a logarithmic scale, to two digits.

    Without that room it would be chance whether the next run reaches it. Runs that never come below their start, such
    as those of a program with too large a step, do not count: with them nobody's time could be told. Raises UserError
    for a run without a finite loss.
    """
    lowest, starts = [], []
    for run in runs:
        loss = run.column("evaluations", "loss")
        finite = loss[np.isfinite(loss)]
        if not len(finite):
            raise UserError(f"{run.path}: no finite loss in /evaluations")
        lowest.append(float(finite.min()))
        starts.append(float(finite[0]))
    better = [low for low, start in zip(lowest, starts, strict=True) if low < start]
    target = float(np.quantile(better or lowest, REACHED, method="inverted_cdf"))
    if target <= 0:
        return target
    target *= (float(np.median(starts)) / target) ** ROOM
    unit = 10.0 ** (math.floor(math.log10(target)) - 1)
    return float(f"{math.ceil(target / unit - 1e-9) * unit:.2g}")
