"""The loss to which runs are compared."""

from pathlib import Path

from made_traces import losses

from outpace.benchmarks.trace.common_loss import common_loss


def test_runs_that_never_improve_do_not_count(tmp_path: Path) -> None:
    """One of five that diverges would make the common loss its own start, which all have at once."""
    good = [losses(tmp_path / f"{k}.h5", [8.0, 1.0 + k / 10]) for k in range(4)]
    bad = losses(tmp_path / "bad.h5", [8.0, 9.0])
    assert common_loss([*good, bad]) == common_loss(good) < 2
    assert common_loss([bad]) == 8.0
