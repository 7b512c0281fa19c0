"""What a run tells of its network: of slow links what was asked for, and all of it in the parts of a killed run."""

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from jobs import outpace

from outpace.benchmarks.running.recovery import recover
from outpace.benchmarks.trace import pairs
from outpace.benchmarks.trace.inspection import validate

SHORT = ("--problem", "quadratic:dim=5", "--epochs", "1")


def network(tmp_path: Path, links: str) -> dict[str, np.ndarray]:
    target = tmp_path / "a.h5"
    done = outpace("run", "allreduce_sgd", "-n", "3", *SHORT, "--links", links, "--out", str(target))
    assert done.returncode == 0, done.stderr
    return pairs.of(validate(target))


@pytest.mark.parametrize("mbit", [10, 100])
def test_the_rate_that_was_asked_for(links_here: None, tmp_path: Path, mbit: int) -> None:
    """Without headers. Where ranks wait for cores a pair may have less, and seldom all of them. A burst that counts
    makes it more, and one way after the other half of it."""
    found = network(tmp_path, f"all:rate={mbit}mbit")
    assert list(zip(found["a"], found["b"], strict=True)) == list(itertools.combinations(range(3), 2))
    assert 0.85 < 8 * found["bytes_per_s"].max() / (mbit * 1e6) < 1.1


def test_a_slow_link_is_named(links_here: None, tmp_path: Path) -> None:
    found = network(tmp_path, "fixed:rank=1,rate=2mbit,others=100mbit")
    assert pairs.in_words(**found).splitlines()[-1].startswith("slow: rank 1, at most 1.")


def test_a_killed_run_has_measured_its_network(start: Callable, tmp_path: Path) -> None:
    job = start("d_psgd", 3, "--problem", "quadratic:dim=5", "--compute-time", "0.01", "--time-budget", "50")
    os.kill(job.wait_until_running(3, 0.0)[2], signal.SIGKILL)
    job.end()
    (target,) = recover(tmp_path)
    assert pairs.of(validate(target))["b"].tolist() == [1, 2, 2]
