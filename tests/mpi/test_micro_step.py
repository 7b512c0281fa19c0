"""`outpace micro step --dim`: the steps by hand are the programs' own, and one that is not is refused."""

import math

import numpy as np
import pytest
from harness import CheckedComm

from outpace.benchmarks import micro, micro_step
from outpace.comm import memory
from outpace.comm.errors import UserError


@pytest.mark.ranks(2)
def test_every_kind_is_measured(comm: CheckedComm) -> None:
    found = dict(micro_step.measure(comm, dim=1000, rounds=1, steps=2))
    assert found.keys() == micro_step.PROGRAMS.keys()
    for name, samples in found.items():
        assert samples.keys() == {"ours", *micro_step.PASSES}
        if comm.rank == 0 and name != "ad_psgd":  # whose workers share the steps as it comes
            assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in samples.values())


class Halved(micro_step.ByNumPy):
    @staticmethod
    def descend(x: np.ndarray, g: np.ndarray, n: float) -> None:
        g *= np.float32(micro_step.GAMMA / 2)
        x -= g


@pytest.mark.ranks(2)
def test_another_step_is_refused(comm: CheckedComm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_step, "PASSES", {"NumPy": Halved})
    monkeypatch.setattr(micro_step, "PROGRAMS", {"a_psgd": {}})
    with pytest.raises(RuntimeError, match="a_psgd, NumPy: another model"):
        next(micro_step.measure(comm, dim=10, rounds=1, steps=2))


@pytest.mark.ranks(2)
def test_what_will_not_fit_is_refused_at_once(comm: CheckedComm, monkeypatch: pytest.MonkeyPatch) -> None:
    """On every rank, also where one of them alone sees that it is too much."""
    monkeypatch.setattr(memory, "of_node", lambda: 1e9 if comm.rank else math.inf)
    with pytest.raises(UserError, match="--dim 100000000: its 2 ranks need about 22 GB of memory; 1 GB are available"):
        micro.steps_by_hand(comm, {}, 10**8)
