"""Asynchronous programs behind slow links, and the studies of them: no gradient waits, and nothing is left to do."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from outpace.benchmarks.studies import slow_networks
from outpace.benchmarks.trace.run import Run, exchanges_per_gradient
from outpace.benchmarks.trace.schema import COMMUNICATION, KIND

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("links_here")]
SECONDS = 4.0
FLAGS = ("--compute-time", "0.05", "--evaluations", "1", "--dtype", "float32", "--time-budget", f"{SECONDS:g}")


def finished(start: Callable, program: str, ranks: int, *flags: str) -> Run:
    job = start(program, ranks, *FLAGS, *flags, outpace=True)
    code, _, err = job.end()
    assert code == 0, err
    return Run(job.target)


@pytest.mark.parametrize("slow", [0, 1])
def test_gradients_of_ad_psgd_wait_for_no_exchange(start: Callable, slow: int) -> None:
    """A link that takes 3 s for a model, of the rank that keeps the budget or of its neighbour: what the gradient loops
    say to each other travels behind models. A loop that waited for one ticket would lose most of its time."""
    links = f"fixed:rank={slow},factor=100,others=1gbit"
    run = finished(start, "ad_psgd", 4, "--problem", "quadratic:dim=1000000", "--links", links)
    rank, wait_s = run.column("steps", "rank"), run.column("steps", "wait_s")
    assert max(wait_s[rank == worker].sum() for worker in range(4)) < 0.05 * SECONDS
    assert exchanges_per_gradient(run) < 0.7


def test_no_exchange_of_ad_psgd_begins_after_the_last_gradient(start: Callable) -> None:
    """Messages of half a second, gradients of a tenth of that: at every worker an averaging is due at the end. What is
    under way is ended. The word that a worker is done does not wait for the others' last words to the desk."""
    run = finished(start, "ad_psgd", 4, "--problem", "quadratic:dim=250000", "--links", "all:rate=20mbit")
    rank, kind, start_s = (run.column("events", name) for name in ("rank", "kind", "t_start_s"))
    asked = start_s[(kind == KIND["exchange"]) & (rank % 2 == 1)]  # by those that ask
    assert len(asked) >= 4
    assert asked.max() < run.column("steps", "t_s").max() + 0.3


@pytest.mark.parametrize("program", ["a_psgd", "eamsgd"])
def test_a_server_answers_each_worker_once_after_the_end(start: Callable, program: str) -> None:
    """Messages of half a second, gradients of a tenth of that: every worker waits for the server, with one message."""
    flags = ["--problem", "quadratic:dim=250000", "--links", "all:rate=20mbit"]
    run = finished(start, program, 4, *flags, *(["--period", "1"] if program == "eamsgd" else []))
    rank, kind, end_s = (run.column("events", name) for name in ("rank", "kind", "t_end_s"))
    served = end_s[(rank == 3) & np.isin(kind, [KIND[name] for name in COMMUNICATION])]
    assert len(served) >= 4
    assert (served > SECONDS).sum() <= 3


def test_slow_link(tmp_path: Path) -> None:
    """Through a link of 100 Mbit/s a model takes 0.34 s, and a gradient 0.05."""
    kept = slow_networks.slow_link(tmp_path, launches=1, workers=2, seconds=1, factors=(10,))
    assert set(kept) == {(case, f) for case in (*slow_networks.alpha_beta.PROGRAMS, "a_psgd, server") for f in (1, 10)}
    assert kept["ad_psgd", 10] > 0.7
    for synchronous in slow_networks.SYNCHRONOUS:
        assert kept[synchronous, 10] < 0.5


def test_shared_links(tmp_path: Path) -> None:
    over = slow_networks.shared_links(tmp_path, launches=1, workers=2, seconds=4)
    assert over["ad_psgd"] == 1
    assert over["allreduce_sgd"] > 1
    assert (tmp_path / "loss-time.png").exists()


def test_server_link(tmp_path: Path) -> None:
    """No number of workers can pass more than a model each 0.34 s through the server's link. By themselves two make 40
    gradients/s."""
    rates = slow_networks.server_link(tmp_path, launches=1, workers=(2, 4), seconds=2)
    assert max(rates["a_psgd", n] for n in (2, 4)) < 3.5
    assert rates["ad_psgd", 4] > 1.3 * rates["ad_psgd", 2] > 20
    assert (tmp_path / "steps-rate.png").exists()
