"""The MPI tests never hang: a rank that fails, or is lost, ends the run in bounded time with its message."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jobs import LIMIT_S

from outpace.benchmarks.machine import launcher

TESTS = Path(__file__).parents[1]
FAILS = """
def test_fails_on_one_rank(comm):
    assert comm.rank != 1, "what went wrong on rank one"
"""
HANGS = """
def test_fails_while_others_wait(comm):
    assert comm.rank != 1, "what went wrong on rank one"
    comm.Barrier()
"""


@pytest.mark.parametrize(("body", "limit_s"), [(FAILS, 20), (HANGS, 30)], ids=["fails", "hangs"])
def test_failing_rank(tmp_path: Path, body: str, limit_s: float) -> None:
    shutil.copy(TESTS / "mpi" / "conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text(body)
    pytest_here = [sys.executable, "-m", "pytest", "-q", "-o", f"pythonpath={TESTS}", "-o", "faulthandler_timeout=5"]
    options = ["-o", "faulthandler_exit_on_timeout=true", "--rootdir", str(tmp_path), str(tmp_path)]
    start = time.monotonic()
    done = subprocess.run(
        [*launcher.mpiexec(), "-n", "3", *pytest_here, *options],
        env=launcher.environment(3),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode != 0
    assert time.monotonic() - start < limit_s
    assert "what went wrong on rank one" in done.stdout + done.stderr
