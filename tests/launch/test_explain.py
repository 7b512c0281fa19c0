"""What is said of a run whose culprit is known, from the launch to the page."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from jobs import outpace

pytestmark = pytest.mark.long

FLAGS = ("--compute-time", "0.05", "--epochs", "0.5", "--evaluations", "1")


@pytest.mark.parametrize("program", ["allreduce_sgd", "d_psgd", "ad_psgd"])
def test_the_slow_rank_is_named(start: Callable, program: str, tmp_path: Path) -> None:
    """+200 ms on rank 1 of four. In the synchronous programs all ranks' step times are equal."""
    job = start(program, 4, *FLAGS, "--stragglers", "fixed:rank=1,factor=5")
    code, _, err = job.end()
    assert code == 0, err
    told = outpace("explain", str(job.target), "--json")
    assert told.returncode == 0, told.stderr
    culprits = json.loads(told.stdout)["culprits"]
    assert [1, "compute"] in [[culprit["rank"], culprit["cause"]] for culprit in culprits]
    page, timeline = tmp_path / "report.html", tmp_path / "run.pftrace"
    assert outpace("report", str(job.target), "-o", str(page)).returncode == 0
    assert "rank 1, gradients take longer, by injected delays" in page.read_text()
    assert outpace("export", "--perfetto", str(job.target), "-o", str(timeline)).returncode == 0
    assert timeline.stat().st_size > 5000
