"""What a step of a program costs of Python, which no clock of a busy machine tells."""

import sys
from collections import Counter

import numpy as np
import pytest
from mpi4py import MPI

from outpace.benchmarks.micro_step import by_the_suite
from outpace.comm.meter import MeteredComm


@pytest.mark.parametrize(("name", "most"), [("allreduce_sgd", 57), ("d_psgd", 61), ("d2", 61)])
def test_calls_of_a_step(name: str, most: int) -> None:
    """Of Python's and of C functions: those of many steps less those of few, so that what is done once does not count.
    A worker alone, whose messages are to nobody."""
    comm, counts = MeteredComm(MPI.COMM_SELF.Dup()), []
    for steps in (2, 40, 200):  # the first to import what is imported
        calls = Counter[str]()
        sys.setprofile(lambda frame, event, _, calls=calls: calls.update([event]))
        by_the_suite(comm, name, np.ones(10, np.float32), steps)
        sys.setprofile(None)
        counts.append(calls["call"] + calls["c_call"])
    comm.Free()
    assert (counts[2] - counts[1]) / 160 <= most
