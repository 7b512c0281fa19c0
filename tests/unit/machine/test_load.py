"""How busy others keep the cores."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mpi4py import MPI

from outpace.benchmarks.machine import load
from outpace.benchmarks.machine.load import Seat, busy_s, crowded, others, own_s

STAT = """cpu  1000 20 300 9000 50 6 7 8 1 0
cpu0 400 10 100 5000 20 1 2 3 0 0
cpu1 600 10 200 4000 30 5 5 5 1 0
cpu11 100 0 0 100 0 0 0 0 0 0
intr 1 2 3
"""


def test_busy_is_all_but_idle_and_waiting_on_these_cores(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text(STAT)
    second = os.sysconf("SC_CLK_TCK")
    assert busy_s(tmp_path / "stat", frozenset({0})) * second == 516
    assert busy_s(tmp_path / "stat", frozenset({0, 1})) * second == 516 + 825
    assert busy_s(tmp_path / "stat", frozenset({11})) * second == 100
    assert busy_s(tmp_path / "nowhere", frozenset({0})) == 0


def test_ranks_on_cores_of_their_own_do_not_feel_what_others_do_elsewhere() -> None:
    pinned = [Seat("a", frozenset({0}), 0.0), Seat("a", frozenset({1}), 0.1)]
    assert not crowded(pinned)
    assert crowded([*pinned, Seat("a", frozenset({2}), 1.0)])
    assert not crowded([Seat("a", frozenset(range(8)), 6.0)] * 2)
    assert crowded([Seat("a", frozenset(range(8)), 6.9)] * 2)
    assert not crowded([Seat("a", frozenset({0}), 0.0)] * 3)  # which share it with one another: emulated


def test_ranks_are_not_others_where_all_their_cores_are_looked_at() -> None:
    """A rank that may also be elsewhere may have been there: what it took is not subtracted."""
    here, elsewhere, wide = frozenset({0, 1}), frozenset({2}), frozenset({1, 2})
    seats = [Seat("a", cores, 1.0) for cores in (here, here, elsewhere, wide)] + [Seat("b", here, 1.0)]
    assert [at.busy for at in others(seats, [0.25, 0.5, 0.125, 1.0, 0.0])] == [0.25, 0.25, 0.875, 0.0, 1.0]


def test_what_a_process_takes_has_its_threads_and_what_it_started_in_it() -> None:
    before = own_s()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.2: pass"], check=True)
    assert own_s() - before >= 0.2


@pytest.mark.parametrize(("own", "asleep"), [(1.4, False), (1.0, True)])
def test_where_in_doubt_it_is_looked_at_once_more(own: float, asleep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.5 cores are busy all the time, with so much of them the rank's own until it sleeps."""
    start_s = time.monotonic()
    slept, asleep_s = list[float](), list[float]()

    def sleep(comm: MPI.Intracomm, seconds: float) -> None:
        slept.append(seconds)
        if len(slept) > 1:
            asleep_s.append(time.monotonic() - start_s)
        time.sleep(seconds)

    monkeypatch.setattr(load.clock, "sleep", sleep)
    monkeypatch.setattr(load, "busy_s", lambda *_: 1.5 * (time.monotonic() - start_s))
    monkeypatch.setattr(load, "own_s", lambda: own * min([time.monotonic() - start_s, *asleep_s]))
    look = load.Look(MPI.COMM_SELF)
    busy, _ = look.end()
    assert 0 < slept[0] <= load.LEAST_S
    if asleep:
        assert load.LOOK_S / 2 < slept[1] <= load.LOOK_S
        assert busy == pytest.approx(1.5, rel=0.1)
    else:
        assert len(slept) == 1
        assert busy == pytest.approx(0.1, abs=0.02)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no Linux")
def test_a_busy_neighbour_on_the_same_core_is_seen() -> None:
    core = min(os.sched_getaffinity(0))
    look = (
        f"import os; os.sched_setaffinity(0, {{{core}}})\n"
        "from mpi4py import MPI\nfrom outpace.benchmarks.machine.load import Look\n"
        "print(*Look(MPI.COMM_SELF).end())"
    )
    busy = subprocess.Popen([sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"])
    try:
        done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=60, check=True)
    finally:
        busy.kill()
        busy.wait()
    cores, crowded = done.stdout.split()
    assert 0.6 < float(cores) < 1.5
    assert crowded == "True"
