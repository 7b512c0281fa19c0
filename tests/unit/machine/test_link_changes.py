"""Shared networks: the schedule of the changes, and the helper that makes them, at a real socket but without links."""

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from outpace.benchmarks.machine import link_changes, links, namespaces
from outpace.benchmarks.machine.link_changes import changes
from outpace.benchmarks.machine.links import Shared

FULL, SLOW = 125e6, 12.5e6  # bytes/s


def shared(period: float, fraction: float) -> Shared:
    spec = links.parse(f"shared:rate=1gbit,share=0.1,period={period},fraction={fraction}")
    assert isinstance(spec, Shared)
    return spec


def until(end_s: float, spec: Shared, seed: int, rank: int, start_s: float = 0.0) -> list[tuple[float, float]]:
    return list(itertools.takewhile(lambda change: change[0] < end_s, changes(spec, seed, rank, start_s)))


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("rank", range(4))
def test_a_link_is_slow_for_its_fraction_of_every_period(fraction: float, rank: int) -> None:
    rows = until(200.0, shared(2, fraction), 5, rank)
    assert rows[0][0] == 0.0
    assert [rate for _, rate in rows] == [(FULL, SLOW)[(i + (rows[0][1] == SLOW)) % 2] for i in range(len(rows))]
    spans = {rate: [b[0] - a[0] for a, b in itertools.pairwise(rows[1:]) if a[1] == rate] for rate in (FULL, SLOW)}
    assert len(spans[SLOW]) > 90
    assert spans[SLOW] == pytest.approx([2 * fraction] * len(spans[SLOW]))
    assert spans[FULL] == pytest.approx([2 * (1 - fraction)] * len(spans[FULL]))


def test_at_any_time_a_fraction_of_the_links_is_slow() -> None:
    """Of 2000 independent ranks, 600 +- 20.5 (one sigma) are slow at 0.9 s and at the start; phases are uniform."""
    spec = shared(2, 0.3)
    rows = [until(2.0, spec, seed, rank) for seed in range(20) for rank in range(100)]
    for moment in (0.0, 0.9):
        slow = sum([rate for at, rate in row if at <= moment][-1] == SLOW for row in rows)
        assert abs(slow - 600) < 85
    phases = np.sort([at % 2 for row in rows for at, rate in row[1:] if rate == SLOW]) / 2
    assert len(phases) == 2000
    assert np.abs(phases - np.arange(2000) / 2000).max() < 2.0 / np.sqrt(2000)  # Kolmogorov: p < 1e-3


def test_seed_and_rank_decide() -> None:
    spec = shared(2, 0.3)
    assert until(20.0, spec, 1, 2) == until(20.0, spec, 1, 2)
    others = [until(20.0, spec, seed, rank)[1][0] for seed in range(3) for rank in range(3)]
    assert len(set(others)) == 9


@pytest.mark.parametrize("start_s", [0.01, 0.7, 1.3, 7.3, 1e6 + 0.5])
def test_a_run_that_goes_on_meets_the_same_changes(start_s: float) -> None:
    for rank in range(8):
        whole = [row for row in changes_from(start_s - 4, rank) if row[0] < start_s + 20]
        before = [rate for at, rate in whole if at <= start_s]
        resumed = until(start_s + 20, shared(2, 0.3), 1, rank, start_s)
        assert resumed == [(start_s, before[-1]), *(row for row in whole if row[0] > start_s)]


def changes_from(start_s: float, rank: int) -> Iterator[tuple[float, float]]:
    yield from itertools.islice(changes(shared(2, 0.3), 1, rank, max(0.0, start_s)), 40)


@pytest.fixture
def helper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[list[tuple[int, float]], Callable[[], bool]]]:
    """What a helper of 3 links has done, by rank and rate, and whether it still runs."""
    monkeypatch.setattr(namespaces, "CHANGES", str(tmp_path / "changes"))
    done: list[tuple[int, float]] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(namespaces.CHANGES)
    listener.listen()

    def accept() -> None:
        connection, _ = listener.accept()
        with connection:
            link_changes.serve(connection, shared(0.4, 0.5), 3, lambda rank, rate: done.append((rank, rate)))

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield done, thread.is_alive
    listener.close()


def test_the_log_is_what_was_done(helper: tuple[list[tuple[int, float]], Callable[[], bool]]) -> None:
    """Begun 100 s ago, as a run that goes on: every change comes once, in its order, and not before its time."""
    done, alive = helper
    t0 = time.monotonic() - 100
    before_s = time.monotonic() - t0
    client = link_changes.Changes(3, t0)
    after_s = time.monotonic() - t0
    rows = []
    for _ in range(4):
        time.sleep(0.2)
        rows += client.read()
    assert [(rank, rate) for rank, _, rate in rows] == done[: len(rows)]
    for rank in range(3):
        mine = [(t_s, rate) for of, t_s, rate in rows if of == rank]
        assert len(mine) >= 3
        due = [until(110, shared(0.4, 0.5), 3, rank, start_s)[: len(mine)] for start_s in (before_s, after_s)]
        assert [rate for _, rate in mine] in [[rate for _, rate in rows] for rows in due]
        assert all(t_s >= at_s for (t_s, _), (at_s, _) in zip(mine, due[0], strict=True))
    client.close()
    deadline = time.monotonic() + 60
    while alive():
        assert time.monotonic() < deadline
        time.sleep(0.01)
