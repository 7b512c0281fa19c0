"""What a run tells of its network: of slow links what was asked for and when they changed, also after a kill."""

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from jobs import outpace

from outpace.benchmarks.machine.link_changes import changes
from outpace.benchmarks.machine.links import Shared, parse
from outpace.benchmarks.running.recovery import recover
from outpace.benchmarks.trace import pairs
from outpace.benchmarks.trace.inspection import validate
from outpace.benchmarks.trace.run import Run

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


SHARED = "shared:rate=100mbit,share=0.1,period=1,fraction=0.4"
CHANGING = ("--problem", "quadratic:dim=5", "--compute-time", "0.01", "--seed", "5", "--links", SHARED)
LATE_S = 0.25  # a helper that waits for a core


def check_changes(run: Run, until_s: float) -> None:
    """Of each rank every change that its seed has until then, when it was due or a little later, and no others. One
    that is due at once may be what the link has at the start."""
    rank, t_s, bytes_per_s = (run.column("links", name) for name in ("rank", "t_s", "bytes_per_s"))
    spec = parse(SHARED)
    assert isinstance(spec, Shared)
    for r in range(2):
        due = list(itertools.takewhile(lambda change: change[0] < t_s[-1] + 1, changes(spec, 5, r)))
        made = list(zip(t_s[rank == r], bytes_per_s[rank == r], strict=True))
        for at_s, rate in due:
            assert not 0 < at_s <= until_s or any(0 <= t - at_s < LATE_S and to == rate for t, to in made), (at_s, made)
        for t, to in made:
            before = [rate for at_s, rate in due if at_s <= t - LATE_S][-1:]
            assert to in before + [rate for at_s, rate in due if t - LATE_S < at_s <= t], (t, due)


def test_a_killed_run_has_the_changes_of_its_links(links_here: None, start: Callable, tmp_path: Path) -> None:
    job = start("d_psgd", 2, *CHANGING, "--time-budget", "50", outpace=True)
    os.kill(job.wait_until_running(2, 3.0)[1], signal.SIGKILL)
    job.end()
    (target,) = recover(tmp_path)
    check_changes(validate(target), until_s=1.5)


@pytest.mark.long
def test_links_go_on_changing_where_they_were(links_here: None, start: Callable) -> None:
    """Ended and taken up again, at another time of the period: as if there had been no pause."""
    flags = (*CHANGING, "--time-budget", "4")
    job = start("d_psgd", 2, *flags, outpace=True)
    job.wait_until_running(2, 1.7)
    job.process.send_signal(signal.SIGUSR1)
    assert job.end()[0] == 75
    before_s = Run(job.target).attrs["wall_s"]
    job = start("d_psgd", 2, *flags, outpace=True)
    code, _, err = job.end()
    assert code == 0, err
    run = validate(job.target)
    assert before_s < 3 < run.attrs["wall_s"]
    check_changes(run, until_s=3.5)
