"""Simulated runs from outside: one process, whatever the ranks, and nothing left of one that is killed."""

import signal
import time
from pathlib import Path

import pytest
from jobs import outpace

from outpace.benchmarks.trace.inspection import validate

FLAGS = ("--simulate", "10gbit", "--compute-time", "0.1", "--problem", "quadratic:dim=20,sigma=0.3")


def test_a_simulated_run_and_its_refusal(tmp_path: Path) -> None:
    out = tmp_path / "run.h5"
    words = ("run", "d_psgd", "-n", "32", *FLAGS, "--epochs", "4", "--out", str(out))
    done = outpace(*words)
    assert done.returncode == 0, done.stderr
    assert "complete, simulated, wrote" in done.stdout
    run = validate(out)
    assert (run.attrs["n_workers"], run.attrs["claim_class"]) == (32, "simulated")
    assert list(tmp_path.iterdir()) == [out]
    again = outpace(*words)
    assert again.returncode == 2
    assert f"d_psgd: --out: {out} exists" in again.stderr


@pytest.mark.long
def test_a_killed_simulation_leaves_nothing(start, tmp_path: Path) -> None:
    job = start("ad_psgd", 32, *FLAGS, "--time-budget", "1e6")
    while not list(tmp_path.glob("*.lock")):
        assert job.process.poll() is None
        time.sleep(0.1)
    job.process.send_signal(signal.SIGTERM)
    assert job.end()[0] == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
