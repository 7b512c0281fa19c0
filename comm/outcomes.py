"""What becomes of the ballots of n workers: their majority, their sum, or nothing; with a scale to every worker's signs
or without.

Every class has the ballots that this worker fills in, one after the other: `cards`, shape (ballots, words);
`exchange(coins, scale)`, which sends `nbytes` from this rank and learns the outcome; and `update(x, shrink)`, which
shrinks x and moves it by the outcome. `scale` is the length of a step by one sign, which is the same for all workers
unless the class is one of scaled signs. What it remembers of a step is in `memory`, by name. No step allocates a
vector.
"""

from types import ModuleType
from typing import Any, ClassVar, Final

import numpy as np
from mpi4py import MPI

from outpace.comm import sign
from outpace.comm.arrays import Wired
from outpace.comm.vote import EXCHANGES, Coins, ballots_each


class Vote:
    """What the outcomes of a vote have in common: the way that ballots travel."""

    def __init__(self, exchange: str, ties: str, comm: MPI.Intracomm, x: Any, xp: ModuleType) -> None:
        self.each = ballots_each(ties)
        self.route = EXCHANGES[exchange](comm, x.size, xp, self.each)
        self.owners, self.words = self.route.owners, self.route.words
        self.ballot = Wired((self.owners, self.each, self.words), np.uint32, xp, comm)
        # One ballot is filled in where it leaves from; two leave side by side, in each owner's chunk.
        self.cards = self.ballot.array.reshape(1, -1)
        if self.each > 1:
            self.cards = xp.zeros((self.each, self.owners * self.words), dtype=np.uint32)
        self.kernels = sign.kernels(xp)
        self.memory: dict[str, Any] = {}

    def cast(self) -> Wired:
        """The ballots as they leave."""
        if self.each > 1:
            self.ballot.array[:] = self.cards.reshape(self.each, self.owners, self.words).swapaxes(0, 1)
        return self.ballot


class Majority(Vote):
    """The sign of the sum of the signs."""

    can_tie: ClassVar[bool] = True

    def __init__(self, exchange: str, ties: str, comm: MPI.Intracomm, x: Any, xp: ModuleType) -> None:
        super().__init__(exchange, ties, comm, x, xp)
        planes = 2 if ties in ("keep", "abstain") and self.can_tie else 1
        self.outcome = Wired((self.owners, planes, self.words), np.uint32, xp, comm)
        self.steps = Wired((self.owners,), x.dtype, xp, comm)  # by which each owner's chunk moves
        self.nbytes = self.route.sent(self.ballot.nbytes, self.outcome.nbytes)

    def exchange(self, coins: Coins, scale: float) -> None:
        self.route.majority(self.cast(), coins.ties, self.outcome)
        self.steps.array[:] = scale

    def update(self, x: Any, shrink: float) -> None:
        self.kernels.apply(x, self.outcome.array, self.steps.array, shrink)


class Sum(Vote):
    """The sum of the signs."""

    def __init__(self, exchange: str, ties: str, comm: MPI.Intracomm, x: Any, xp: ModuleType) -> None:
        super().__init__(exchange, ties, comm, x, xp)
        self.sums = Wired((self.owners, sign.BITS * self.words), np.int8, xp, comm)
        self.nbytes = self.route.sent(self.ballot.nbytes, self.sums.nbytes)
        self.move, self.multiply = xp.empty_like(x), xp.multiply

    def exchange(self, coins: Coins, scale: float) -> None:
        self.route.sum(self.cast(), self.sums)
        self.scale = scale / self.each

    def update(self, x: Any, shrink: float) -> None:
        self.multiply(self.sums.array.reshape(-1)[: x.size], self.scale, out=self.move)
        x *= shrink
        x -= self.move


class ScaledMajority(Majority):
    """The mean of the scaled signs, compressed once more: an owner is to its chunk what a worker is to the model.

    It has signs to compress, no votes: where it is zero it takes the sign that a tied vote would, with `keep` as with
    `random`, and the error memory gives back what that adds.
    """

    can_tie = False

    def __init__(self, exchange: str, ties: str, comm: MPI.Intracomm, x: Any, xp: ModuleType) -> None:
        super().__init__(exchange, ties, comm, x, xp)
        self.scale, self.scales = Wired((self.owners,), x.dtype, xp, comm), Wired((comm.size,), x.dtype, xp, comm)
        self.mean = xp.zeros_like(self.route.chunk(x, sign.BITS * self.words))
        self.error = self.memory["error"] = xp.zeros_like(self.mean)
        self.nbytes += self.route.sent(self.scale.nbytes, self.steps.nbytes)

    def exchange(self, coins: Coins, scale: float) -> None:
        route, mine = self.route, self.route.mine
        self.scale.array[:] = scale
        route.mean(self.ballot, self.scale, self.scales, self.mean)
        if route.counts and self.mean.size:
            signs = route.chunk(coins.ties, self.words), 0, self.outcome.array[mine, 0]
            self.steps.array[mine] = self.kernels.feedback_ballot(self.mean, self.error, 1.0, *signs)
        route.down(self.outcome)
        route.down(self.steps)


class ScaledSum(Vote):
    """The mean of the scaled signs."""

    def __init__(self, exchange: str, ties: str, comm: MPI.Intracomm, x: Any, xp: ModuleType) -> None:
        super().__init__(exchange, ties, comm, x, xp)
        self.scale, self.scales = Wired((self.owners,), x.dtype, xp, comm), Wired((comm.size,), x.dtype, xp, comm)
        self.means = Wired((self.owners, sign.BITS * self.words), x.dtype, xp, comm)
        self.nbytes = self.route.sent(self.ballot.nbytes + self.scale.nbytes, self.means.nbytes)

    def exchange(self, coins: Coins, scale: float) -> None:
        self.scale.array[:] = scale
        self.route.mean(self.ballot, self.scale, self.scales, self.means.array[self.route.mine])
        self.route.down(self.means)

    def update(self, x: Any, shrink: float) -> None:
        x *= shrink
        x -= self.means.array.reshape(-1)[: x.size]


class Alone:
    """Every worker follows its own signs, which are the same everywhere."""

    nbytes = 0

    def __init__(self, exchange: str, ties: str, comm: MPI.Intracomm, x: Any, xp: ModuleType) -> None:
        self.outcome = xp.zeros((1, 1, sign.words(x.size)), dtype=np.uint32)
        self.cards = self.outcome.reshape(1, -1)
        self.steps = xp.zeros(1, dtype=x.dtype)
        self.kernels = sign.kernels(xp)
        self.memory: dict[str, Any] = {}

    def exchange(self, coins: Coins, scale: float) -> None:
        self.steps[:] = scale

    def update(self, x: Any, shrink: float) -> None:
        self.kernels.apply(x, self.outcome, self.steps, shrink)


OUTCOMES: Final[dict[tuple[str, bool], type[Any]]] = {  # by what is made of the signs, and whether they have scales
    ("majority", False): Majority,
    ("sum", False): Sum,
    ("none", False): Alone,
    ("majority", True): ScaledMajority,
    ("sum", True): ScaledSum,
    ("none", True): Alone,
}
