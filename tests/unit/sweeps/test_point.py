"""A point on disk: what files say of it, who may run it, and its run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
from small_sweeps import CHECKPOINT, meets

from outpace.benchmarks.sweeps import point as points
from outpace.benchmarks.sweeps.point import Busy, Point, Standing, claim, standing
from outpace.benchmarks.trace import checkpoint
from outpace.comm.errors import UserError

GOLDEN = Path(__file__).parents[2] / "golden" / "trace-v1.h5"


def traced(point: Point, status: str) -> None:
    point.target.write_bytes(GOLDEN.read_bytes())
    with h5py.File(point.target, "a") as file:
        file.attrs["status"] = status


def test_what_has_become_of_a_point(point):
    point.target.parent.mkdir()
    assert standing(point).state == "missing"
    part = point.target.with_name(point.target.name + ".part-0")
    part.write_bytes(b"")
    assert standing(point) == Standing("partial", "killed without a checkpoint; starts again")
    for rank in range(point.ranks):
        assert standing(point).reason == "killed without a checkpoint; starts again"
        checkpoint.path(point.target, rank, 3).write_bytes(b"")
    assert standing(point) == Standing("partial", "goes on from its checkpoint")
    traced(point, "partial")
    assert standing(point) == Standing("partial", "goes on from its checkpoint")
    point.beside(".failed").write_text("exit code 1: d_psgd: no luck\n")
    goes_on = "exit code 1: d_psgd: no luck; --retry-failed goes on from its checkpoint"
    assert standing(point) == Standing("failed", goes_on)
    point.target.unlink()
    assert standing(point) == Standing("failed", goes_on)
    part.unlink()
    assert str(standing(point)) == "failed: exit code 1: d_psgd: no luck"
    for rank in range(point.ranks):
        checkpoint.forget(point.target, rank)
    for status, state in (("complete", "done"), ("diverged", "diverged"), ("partial", "failed")):
        traced(point, status)
        assert standing(point).state == state
    points.forgive(point)
    assert standing(point).state == "partial"
    point.target.write_bytes(point.target.read_bytes()[:1000])
    assert standing(point).state == "failed"
    assert "cannot be read as HDF5" in standing(point).reason


def test_the_trace_of_another_run_is_neither_the_point_done_nor_replaced(point, launcher):
    launcher("exit 1")
    traced(point, "complete")
    with h5py.File(point.target, "a") as file:
        file.attrs["config_id"] = "0123456789abcdef"
    before = point.target.read_bytes()
    told = f"{point.target} holds the trace of another run, 0123456789abcdef; move it away"
    assert standing(point) == Standing("failed", told)
    points.forgive(point)
    with points.Signals() as signals:
        assert points.run(point, signals) == Standing("failed", told)
    assert point.target.read_bytes() == before
    assert not point.beside(".log").exists()


@pytest.mark.parametrize("suffix", [".log", ".failed"])
def test_a_pipe_with_the_name_of_a_points_file_is_not_waited_for(point, suffix):
    point.target.parent.mkdir()
    os.mkfifo(point.target.with_suffix(suffix))
    with points.Signals() as signals, pytest.raises(UserError, match=f"{suffix}: it is a pipe, not a regular file"):
        points.run(point, signals)


HOLD = """
import os, subprocess, sys, time
from pathlib import Path
from outpace.benchmarks.sweeps.point import Point, claim
with claim(Point("x", "d_psgd", 2, (), Path(sys.argv[1]))) as held:
    child = subprocess.Popen(["sleep", sys.argv[2]], pass_fds=[held])
    print(child.pid, flush=True)
    time.sleep(60)
"""


def hold(point: Point, child_s: float) -> tuple[subprocess.Popen[str], int]:
    """Another process that has claimed the point and started something; and that one's process id."""
    line = [sys.executable, "-c", HOLD, str(point.target), str(child_s)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONSAFEPATH": "1"})
    assert process.stdout
    with process.stdout as said:
        return process, int(said.readline())


def test_a_point_is_claimed_by_one_and_as_long_as_anything_of_it_runs(point, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(points, "PROBED_S", 0.3)
    point.target.parent.mkdir()
    process, child = hold(point, 30)
    assert standing(point).state == "running"
    assert f"process {process.pid}" in standing(point).reason
    with pytest.raises(Busy, match=f"process {process.pid}"), claim(point):
        pass
    process.kill()  # no clean-up of any kind, and what it had started still runs
    process.wait()
    with pytest.raises(Busy), claim(point):
        pass
    os.kill(child, signal.SIGKILL)
    with claim(point):
        assert point.beside(".lock").read_text().endswith(f"process {os.getpid()}")
    assert os.listdir(point.target.parent) == []
    assert standing(point).state == "missing"


def test_a_requeued_job_waits_for_its_earlier_life(point, monkeypatch):
    monkeypatch.setattr(points, "PROBED_S", 0.1)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    point.target.parent.mkdir()
    process, _ = hold(point, 1.5)
    process.kill()
    process.wait()
    start = time.monotonic()
    with claim(point):
        assert time.monotonic() - start > 1
    process, _ = hold(point, 1.5)
    process.kill()
    process.wait()
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    with pytest.raises(Busy, match="job 77"), claim(point):
        pass


@pytest.mark.parametrize(
    ("script", "state"),
    [
        (meets("TERM", "exit 143"), "missing"),
        (meets("TERM", f"{CHECKPOINT}; exit 143"), "partial"),
        (meets("TERM", "exit 15"), "missing"),
        ("kill -TERM $runner; sleep 20", "missing"),  # dies of it
        ("kill -USR1 $runner; sleep 20", "missing"),
        (meets("INT", ":"), "missing"),  # as SIGUSR1, of which it dies
        (f"trap '{CHECKPOINT}; exit 75' USR1\nkill -INT $runner\nsleep 20 & wait", "partial"),
        ("trap : USR1 TERM; for k in 1 2 3; do kill -INT $runner; sleep 0.5; done; sleep 20", "missing"),
        (meets("TERM", "echo d_psgd: quota exceeded; exit 1"), "failed"),
        (meets("USR1", f"{CHECKPOINT}; echo d_psgd: quota exceeded; exit 1"), "failed"),
        (meets("USR1", "kill -KILL $$"), "failed"),
    ],
)
def test_a_signal_excuses_only_the_ends_that_it_leads_to(point, launcher, script, state):
    launcher(script)
    with points.Signals() as signals:
        after = points.run(point, signals)
    assert signals.taken
    assert after.state == standing(point).state == state
    assert point.beside(".failed").exists() == (state == "failed")
    if "quota" in script:
        assert after.reason == "exit code 1: d_psgd: quota exceeded"


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (b"mpiexec -n 2 ...\nd_psgd: --split labels: classes is 1; it must be at least 5\n", "d_psgd: --split labels"),
        (
            b"mpiexec\nTraceback:\n  x\nValueError: no\n=====\n=   BAD END\n",
            "ValueError: no",
        ),
        (b"mpiexec\nsrun: error: n0: task 0: Killed\n", "srun: error: n0: task 0: Killed"),
        (b"mpiexec\n", "no output"),
    ],
)
def test_the_reason_of_a_failure_is_the_line_that_says_most(log, reason):
    assert points._reason(log).startswith(reason)
