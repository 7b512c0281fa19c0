"""Step sizes over a run, one vocabulary of SPECs for all programs: what step k = 0, 1, ... makes of `step_size`.

    constant                    step_size
    sqrt                        step_size / sqrt(k + 1), as theorems have it
    step:at=30+60,factor=0.1    times `factor` from each of these epochs on
    cosine                      step_size (1 + cos(pi k / K)) / 2 in a run of K steps (Loshchilov and Hutter, ICLR
                                2017, arXiv:1608.03983, eq. (5), without restarts)

Each of them takes the key `warm-up`: in the first so many epochs the above is multiplied by a ramp that grows by the
same amount every step and ends at 1 (Goyal et al., arXiv:1706.02677, section 2.2).

k counts what the program's loop counts, in an asynchronous program the gradients of all workers. An epoch is a pass
over the data by all workers together, so that `at` and `warm-up` mean the same in every program, with any number of
workers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from outpace.comm import spec
from outpace.comm.errors import UserError
from outpace.comm.spec import NonNegativeFloat, PositiveFloat, Probability


@dataclass(frozen=True, kw_only=True)
class Schedule:
    warm_up: NonNegativeFloat = 0.0  # epochs

    def share(self, k: int, epoch: float, total: int | None) -> float:
        """Of the step size in step k, which begins after so many epochs, of a run of `total` steps."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    def share(self, k: int, epoch: float, total: int | None) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Sqrt(Schedule):
    def share(self, k: int, epoch: float, total: int | None) -> float:
        return 1 / math.sqrt(k + 1)


@dataclass(frozen=True, kw_only=True)
class Step(Schedule):
    at: tuple[PositiveFloat, ...]  # epochs
    factor: Probability = 0.1

    def share(self, k: int, epoch: float, total: int | None) -> float:
        return self.factor ** sum(epoch >= at for at in self.at)


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    def share(self, k: int, epoch: float, total: int | None) -> float:
        if total is None:
            raise UserError("--schedule cosine: the run's length is not known beforehand; it needs --epochs")
        return (1 + math.cos(math.pi * k / total)) / 2


SCHEDULES: Final[dict[str, type[Schedule]]] = {"constant": Constant, "sqrt": Sqrt, "step": Step, "cosine": Cosine}


def parse(text: str) -> Schedule:
    """Raises UserError for what is no schedule."""
    return spec.parse(text, SCHEDULES, "--schedule")


def step_sizes(text: str, step_size: float, steps_per_epoch: float, total: int | None) -> Callable[[int], float]:
    """gamma(k) of a run of `total` steps (None: not known beforehand), by a SPEC.

    >>> gamma = step_sizes("step:at=2,warm-up=0.5", 0.4, steps_per_epoch=4, total=None)
    >>> [round(gamma(k), 3) for k in (0, 1, 2, 7, 8)]
    [0.2, 0.4, 0.4, 0.4, 0.04]

    Raises UserError for what is no schedule, and for `cosine` where `total` is None.
    """
    schedule = parse(text)
    if schedule == Constant():
        always = float(step_size)
        return lambda k: always
    ramp = max(1.0, schedule.warm_up * steps_per_epoch)  # steps

    def gamma(k: int) -> float:
        return step_size * min(1.0, (k + 1) / ramp) * schedule.share(k, k / steps_per_epoch, total)

    gamma(0)  # refuses what has no step size before the loop does
    return gamma
