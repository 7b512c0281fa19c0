"""What analyses promise holds, and is not empty: the bound is above what is measured, by less than a factor of 100."""

from pathlib import Path

import pytest

from outpace.benchmarks.studies.bounds import bounds

pytestmark = pytest.mark.claim


def test_bounds_hold(tmp_path: Path) -> None:
    """signSGD and D-PSGD at the step sizes of their analyses. signSGD's measure falls as its bound does: 16 times in 16
    times the steps, give or take a factor of two."""
    rows = bounds(tmp_path)
    for row in rows:
        assert row.measured < row.bound < 100 * row.measured
    for workers in (1, 5):
        first, *_, last = (row for row in rows if (row.program, row.workers) == ("sign_sgd", workers))
        assert 8 < first.measured / last.measured < 32
