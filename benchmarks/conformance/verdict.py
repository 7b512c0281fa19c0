"""How a contract says that it does not hold, and how all ranks come to say so together."""

from typing import Final

import numpy as np
from mpi4py import MPI

# Of a contract in the table of `outpace check`.
HOLDS: Final = "holds"
FAILS: Final = "fails"
NOTHING: Final = "-"  # not applicable
UNTRIED: Final = "not tried"
UNUSABLE: Final = "unusable"  # of the file, which is then no program
MARK: Final = "outpace-check "  # before what rank 0 says in the output of a launch


class Broken(AssertionError):
    """A contract does not hold. Its text is the one line that tells why; raised on every rank."""


class NotApplicable(Exception):
    """A contract has nothing to say of this program on so many ranks. Its text tells why; raised on every rank."""


def hold(comm: MPI.Intracomm, holds: bool | np.bool, why: str) -> None:
    """Raise Broken on every rank, with the lowest such rank's `why`, where something does not hold; collective.

    A rank that raised alone would leave the others waiting for it.
    """
    reasons = comm.allgather(None if holds else why)
    for rank, reason in enumerate(reasons):
        if reason is not None:
            raise Broken(f"rank {rank}: {reason}" if None in reasons else reason)
