"""What tests of programs share: a run in memory, on the array module that a test sets."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from outpace.benchmarks.conformance import trial
from outpace.benchmarks.conformance.trial import CheckedComm, Outcome, RandomStart, execute, shares
from outpace.benchmarks.trace.recorder import Trace
from outpace.benchmarks.trace.snapshots import Snapshots
from outpace.comm.gossip import SharedModel

__all__ = [
    "CheckedComm",
    "Outcome",
    "RandomStart",
    "Recorded",
    "Rounds",
    "backend",
    "execute",
    "in_time",
    "share",
    "shared_model",
    "shares",
]

backend: Any = np  # the array module of `share`


def share(
    comm: MPI.Intracomm, text: str, dtype: str = "float64", split: str = "iid", seed: int = 0, servers: int = 0
) -> Any:
    """This rank's share, or what a server knows of the problem; collective."""
    return trial.share(comm, text, dtype, split, seed, servers, backend)


def in_time(comm: MPI.Intracomm, once: Callable[[], str], tries: int = 5) -> None:
    """What holds where each rank gets its core when it needs one: on a busy machine one of so many runs has to show it.
    `once` makes a run and says what is wrong on this rank. Collective, and all ranks fail together."""
    for _ in range(tries):
        wrong = [f"rank {rank}: {why}" for rank, why in enumerate(comm.allgather(once())) if why]
        if not wrong:
            return
    pytest.fail("; ".join(wrong))


def shared_model(comm: CheckedComm, x: Any) -> SharedModel:
    return SharedModel(comm, x, Trace(comm, Snapshots(0, len(x), np.dtype("f8"), per_step=True)))


class Recorded:
    """A problem that keeps every model at which it was asked for a gradient, and the gradient."""

    def __init__(self, problem: Any) -> None:
        self._problem = problem
        self.models: list[np.ndarray] = []
        self.gradients: list[np.ndarray] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._problem, name)

    def gradient(self, x: np.ndarray, batch: np.ndarray, out: np.ndarray) -> None:
        self._problem.gradient(x, batch, out)
        self.models.append(x.copy())
        self.gradients.append(out.copy())


class Rounds:
    """A budget of the rounds that it is given, without a word to other ranks."""

    count, total = 0, None

    def __init__(self, rounds: Iterable[int]) -> None:
        self._rounds = rounds

    def __iter__(self) -> Iterator[int]:
        return iter(self._rounds)

    def keep(self, **things: Any) -> None:
        """Nothing goes on from here; but what would is there to be looked at."""
        self.kept = things
