"""What a program tells the runner of itself, beside its flags."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from outpace.comm.topology import Matrix, mixing_matrix


class ProgramConfig:
    """Base of every program's `Config`, a frozen dataclass of its flags.

    The defaults here describe a synchronous program without servers or a graph. A program overrides what differs: by an
    attribute, by a flag of that name, or by a method.
    """

    # Flags that every Config has.
    step_size: float | None
    batch_size: int  # samples per gradient of one worker
    dtype: str  # float32 or float64
    seed: int

    asynchronous: bool = False  # the workers share the budget, and each makes as many steps as its speed allows
    agreement_period: int = 8  # steps, at least, from one agreement of a synchronous program on its end to the next
    servers: int = 0  # the last ranks, which hold the model and compute no gradients
    rounds: bool = False  # an asynchronous program whose one server counts rounds: those are its steps, and its budget
    granted: bool = False  # an asynchronous program whose server's answers say whether to compute another gradient
    by_nccl: bool = False  # it sends device arrays by methods of `comm.nccl.ByNccl` alone, from one thread of a rank
    topology: str | None = None  # SPEC of the graph, where neighbours average
    # Flags that came later, with the value that was the only one before: runs with it keep their id.
    younger: Mapping[str, Any] = MappingProxyType({})
    prox: str = "none"  # SPEC of the part of the objective that has a proximal operator instead of a gradient

    @property
    def title(self) -> str:
        """The name that people know the program by, or that of the variant its flags make; without, its file's name."""
        return ""

    @staticmethod
    def mixing(text: str, n: int) -> list[Matrix]:
        """The mixing matrices of a topology SPEC for n workers, one for each step of a period.

        Raises UserError for a topology that the program cannot use, here for one without a symmetric matrix that is the
        same in all steps."""
        return [mixing_matrix(text, n)]

    @property
    def averages_workers(self) -> bool:
        """Whether each update is a mean over the workers, however many gradients each of them has in it."""
        return False

    def check(self, n: int) -> None:
        """Raise UserError for what n workers cannot be run with; called on every rank, before any file or message."""

    def reach(self, n: int, diameter: int) -> int:
        """Steps of a synchronous program after which each of n workers has waited for all others, directly or not, by
        messages of the program; `diameter` is that of its graph, or 1."""
        return diameter

    def steps_per_epoch(self, n_total: int, n: int) -> float:
        """Steps of n workers, each of its own gradient, that together use n_total samples; the mean where they vary."""
        return n_total / (n * self.batch_size)

    def steps_in(self, epochs: float, n_total: int, n: int) -> float:
        """Steps of n workers in so many epochs."""
        return epochs * self.steps_per_epoch(n_total, n)

    def derive(self, problem: Any) -> dict[str, Any]:
        """Constants taken from the problem, for the trace. Raises UserError where the two do not fit."""
        return {}
