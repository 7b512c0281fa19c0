"""How busy others keep the cores."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from outpace.benchmarks.machine.load import busy_s, crowded

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
    pinned = [("a", frozenset({0}), 0.0), ("a", frozenset({1}), 0.1)]
    assert not crowded(pinned)
    assert crowded([*pinned, ("a", frozenset({2}), 1.0)])
    assert not crowded([("a", frozenset(range(8)), 6.0)] * 2)
    assert crowded([("a", frozenset(range(8)), 6.9)] * 2)
    assert not crowded([("a", frozenset({0}), 0.0)] * 3)  # which share it with one another: emulated


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no Linux")
def test_a_busy_neighbour_on_the_same_core_is_seen() -> None:
    core = min(os.sched_getaffinity(0))
    look = (
        f"import os; os.sched_setaffinity(0, {{{core}}})\n"
        "from mpi4py import MPI\nfrom outpace.benchmarks.machine.load import look\n"
        "print(*look(MPI.COMM_SELF))"
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
