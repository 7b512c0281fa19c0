"""Step sizes by one search, or one grid, for every program."""

import math
from collections.abc import Callable
from typing import Final

SEED: Final = 100  # of the runs that choose a step size; those that count have seeds from 0 on


def step_size(rung: int) -> float:
    """A ladder by half decades.

    >>> [step_size(rung) for rung in (-2, -1, 0, 1, 2)]
    [0.1, 0.3, 1.0, 3.0, 10.0]
    """
    return float(f"{(1, 3)[rung % 2]}e{rung // 2}")


def tuned(loss_of: Callable[[float], float], first: int) -> tuple[float, dict[float, float]]:
    """The best step size, of equal ones the smaller, and the losses by step size: of the first rung and those on either
    side of it, and on until the best one has a worse one on either side. What is not finite is infinitely bad.

    Where every step size is as bad as the others, the search ends with the first three.

    >>> tuned(lambda gamma: (gamma - 2.5) ** 2, -1)
    (3.0, {0.1: 5.76, 0.3: 4.840000000000001, 1.0: 2.25, 3.0: 0.25, 10.0: 56.25})
    """
    losses: dict[int, float] = {}

    def tried(rung: int) -> float:
        if rung not in losses:
            losses[rung] = _finite(loss_of(step_size(rung)))
        return losses[rung]

    best = min((first - 1, first, first + 1), key=tried)
    while math.isfinite(losses[best]) and (better := min((best - 1, best, best + 1), key=tried)) != best:
        best = better
    return step_size(best), {step_size(rung): losses[rung] for rung in sorted(losses)}


def grid(loss_of: Callable[[float], float], first: int, side: int) -> tuple[float, dict[float, float]]:
    """As `tuned`, of a fixed number of step sizes: the first rung and so many on each side, wherever the best one is.

    >>> grid(lambda gamma: math.nan if gamma > 1 else -gamma, -1, 1)
    (1.0, {0.1: -0.1, 0.3: -0.3, 1.0: -1.0})
    """
    losses = {gamma: _finite(loss_of(gamma)) for gamma in map(step_size, range(first - side, first + side + 1))}
    return min(losses, key=losses.__getitem__), losses


def _finite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
