"""Rounds of the first m of n gradients, against cases that can be done in the head, and order statistics in closed
form."""

import pytest

from outpace.benchmarks.studies.first_of_n import first_of_n, never_waiting, order_statistic_s, rounds_of_m


def test_one_slow_worker_in_the_head() -> None:
    """Three workers of 1 s and one of 10 s. Rounds of three take 1 s, and in ten of them one late gradient comes."""
    law = "fixed:rank=2,factor=10"
    assert order_statistic_s(law, 4, 3, 1.0, 100) == 1.0
    assert order_statistic_s(law, 4, 4, 1.0, 100) == 10.0
    assert rounds_of_m(law, 4, 4, 1.0, 100) == (10.0, 0.0)
    for late in ("discard", "apply"):
        assert rounds_of_m(law, 4, 2, 1.0, 100, late).round_s == pytest.approx(1.0, abs=0.1)  # type: ignore[arg-type]
    discard = rounds_of_m(law, 4, 3, 1.0, 1000)
    assert discard.round_s == pytest.approx(1.0)
    assert discard.dropped == pytest.approx(1 / 31, rel=0.02)
    assert rounds_of_m(law, 4, 3, 1.0, 1000, "apply").dropped == 0
    assert never_waiting(law, 4, 1.0, 10) == pytest.approx(3 + 1 / 10)


def test_order_statistics_of_an_exponential_law() -> None:
    """Of n standard exponential times the m-th smallest has the mean 1/n + ... + 1/(n - m + 1)."""
    for m in (1, 4, 7, 8):
        expected = 1 + sum(1 / (8 - i) for i in range(m))
        assert order_statistic_s("exponential:scale=1", 8, m, 1.0, 4000) == pytest.approx(expected, rel=0.03)


def test_late_workers_make_rounds_longer_and_applied_ones_do_not() -> None:
    """A worker that ends a late gradient is missing from rounds that it could have been in; where late gradients count,
    a round waits for fewer of them than where all begin anew."""
    for m in (4, 6):
        ideal = order_statistic_s("exponential:scale=1", 8, m, 1.0, 4000)
        assert rounds_of_m("exponential:scale=1", 8, m, 1.0, 4000).round_s > 1.05 * ideal
        assert rounds_of_m("exponential:scale=1", 8, m, 1.0, 4000, "apply").round_s < 0.95 * ideal
    assert rounds_of_m("exponential:scale=1", 8, 8, 1.0, 4000).round_s == pytest.approx(
        order_statistic_s("exponential:scale=1", 8, 8, 1.0, 4000)
    )


def test_one_gradient_at_a_time_is_asynchronous(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    """m = 1 with late gradients applied keeps every worker busy: n gradients in the mean compute time."""
    found = first_of_n(tmp_path, n=4, compute_s=1.0, rounds=4000, laws=["exponential:scale=1"])
    assert 1 / found["exponential:scale=1", 1][2].round_s == pytest.approx(4 / 2, rel=0.03)
    assert "exponential:scale=1, n = 4" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
