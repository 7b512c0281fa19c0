"""Rounds of the first m of n gradients, and where models go if a slow worker's data is its own."""

from pathlib import Path

import pytest

from outpace.benchmarks.studies.first_of_n import LAWS, rounds_of_m
from outpace.benchmarks.studies.launches import trace
from outpace.benchmarks.studies.slow_data import slow_data

pytestmark = pytest.mark.claim


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("m", [6, 8])
def test_rounds_take_as_long_as_their_mth_gradient(tmp_path: Path, law: str, m: int) -> None:
    """8 workers, 10 ms of compute slept: the rounds of m-sync SGD per second are those computed from the same delays,
    within 10 %. Most rounds of m = 8 wait for a worker that a round of 6 does without."""
    flags = ["--problem", "quadratic:dim=100", "--compute-time", "0.01", "--stragglers", law, "--m", str(m)]
    run = trace(tmp_path / "run.h5", "m_sync_sgd", 8, *flags, "--epochs", "30")
    applied, gradients = run.applied("t_s"), len(run.column("steps", "t_s"))
    rounds = len(applied) // m
    expected = rounds_of_m(law, 8, m, 0.01, rounds)
    assert applied.max() / rounds == pytest.approx(expected.round_s, rel=0.1)
    assert 1 - len(applied) / gradients == pytest.approx(expected.dropped, abs=0.05)


def test_a_mean_over_workers_is_not_drawn_to_fast_ones(tmp_path: Path) -> None:
    """5 workers, one slowed 10x: A-PSGD, Ringmaster and m-sync SGD end far from the minimiser of (1/n) sum f_i,
    Ringleader at it. Where slow gradients are dropped, the slow worker's digits are not learnt."""
    found = slow_data(tmp_path, launches=3)
    for name in ("A-PSGD", "Ringmaster ASGD", "m-sync SGD"):
        assert found[name][0] > 0.03
    assert found["Ringleader ASGD"][0] < 1e-4
    for name in ("Ringmaster ASGD", "m-sync SGD"):
        assert found[name][2] < found["Ringleader ASGD"][2] - 0.05
