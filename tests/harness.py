"""What tests of programs share: a run in memory, on the array module that a test sets."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.conformance import trial
from outpace.benchmarks.conformance.trial import CheckedComm, Outcome, RandomStart, execute, shares

__all__ = ["CheckedComm", "Outcome", "RandomStart", "Rounds", "backend", "execute", "share", "shares"]

backend: Any = np  # the array module of `share`


def share(
    comm: MPI.Intracomm, text: str, dtype: str = "float64", split: str = "iid", seed: int = 0, servers: int = 0
) -> Any:
    """This rank's share, or what a server knows of the problem; collective."""
    return trial.share(comm, text, dtype, split, seed, servers, backend)


class Rounds:
    """A budget of the rounds that it is given, without a word to other ranks."""

    count, total = 0, None

    def __init__(self, rounds: Iterable[int]) -> None:
        self._rounds = rounds

    def __iter__(self) -> Iterator[int]:
        return iter(self._rounds)

    def keep(self, **things: Any) -> None:
        """What a checkpoint would hold, for tests to see; nothing goes on from here."""
        self.kept = things
