"""Step-size schedules: the factor on `step_size` at step k = 0, 1, ..."""

from collections.abc import Callable
from typing import Final, Literal

Schedule = Literal["constant", "sqrt"]

SCHEDULES: Final[dict[str, Callable[[int], float]]] = {
    "constant": lambda k: 1.0,
    "sqrt": lambda k: (k + 1) ** -0.5,
}
