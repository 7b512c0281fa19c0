"""`outpace sweep` on real runs: what is missing runs, once; what ends early or fails is in nobody's way."""

import fcntl
import functools
import os
import re
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from jobs import LIMIT_S, die

from outpace.benchmarks.machine.launcher import environment
from outpace.benchmarks.sweeps.description import load
from outpace.benchmarks.sweeps.point import standing
from outpace.benchmarks.trace.parts import leftovers, read_part
from outpace.benchmarks.trace.run import Run

pytestmark = pytest.mark.long

OUTPACE = str(Path(sys.executable).parent / "outpace")
QUICK = """
folder = "runs"
workers = 2
[flags]
problem = "quadratic:dim=4"
evaluations = 2
epochs = 0.5
"""


def outpace(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`outpace sweep` in the folder, which holds sweep.toml."""
    env = environment(0) | more
    del env["OUTPACE_RANKS"]
    line = [OUTPACE, "sweep", "sweep.toml", *words]
    return subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, timeout=LIMIT_S)


def start(folder: Path) -> subprocess.Popen[str]:
    env = environment(0)
    del env["OUTPACE_RANKS"]
    return subprocess.Popen([OUTPACE, "sweep", "sweep.toml"], cwd=folder, env=env, stderr=subprocess.PIPE, text=True)


def states(folder: Path) -> list[str]:
    return [standing(point).state for point in load(folder / "sweep.toml", folder / "runs").points]


def attempts(folder: Path) -> list[int]:
    return [log.read_text().count(" UTC, ") for log in sorted((folder / "runs").glob("*.log"))]


def until_in_its_timed_part(folder: Path, number: int = 0) -> dict[int, int]:
    """Wait for the point of this number; the process ids of its ranks."""
    point = load(folder / "sweep.toml", folder / "runs").points[number]
    deadline = time.monotonic() + LIMIT_S
    while True:
        assert time.monotonic() < deadline
        found = {}
        for rank in range(point.ranks):
            path = point.target.with_name(f"{point.target.name}.part-{rank}")
            if path.exists() and b"started_s" in path.read_bytes():
                found[rank] = read_part(path)[-1].header["pid"]
        if len(found) == point.ranks:
            return found
        time.sleep(0.05)


def test_runs_what_is_missing_and_says_how_it_stands(tmp_path: Path) -> None:
    """Of a sweep with a run that fails and one that diverges: these are kept apart and block nothing."""
    text = 'programs = ["allreduce_sgd", "d_psgd"]\n' + QUICK + 'step-size = [0.1, 1e9]\nstragglers = ["none"]\n'
    text += "[program.d_psgd]\nstep-size = 0.1\nbatch-size = 400\ngeometry = [false, true]\n"
    (tmp_path / "sweep.toml").write_text(text)
    done = outpace(tmp_path, "--dry-run")
    assert done.returncode == 0
    assert not (tmp_path / "runs").exists()
    points = load(tmp_path / "sweep.toml").points
    assert len(points) == 4
    for point, line in zip(points, done.stdout.splitlines()[1:], strict=False):
        assert line.startswith(f"{point.id} outpace run {point.program} -n 2 --problem=")

    done = outpace(tmp_path)
    assert done.returncode == 1, done.stderr
    assert sorted(states(tmp_path)) == ["diverged", "done", "done", "failed"]
    lines = done.stderr.splitlines()
    assert lines[0] == "runs: 4 missing; 4 to run"
    assert "s left: " in lines[1]
    assert lines[-2] == "runs: 2 done, 1 diverged, 1 failed"

    done = outpace(tmp_path, "--status")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "runs: 2 done, 1 diverged, 1 failed"
    assert "1 failed: exit code 2: d_psgd: --geometry: a worker holds 512 samples" in done.stdout
    (log,) = re.findall(r"\S+\.log", outpace(tmp_path, "--status", "--verbose").stdout)
    assert "a worker holds 512 samples" in (tmp_path / log).read_text()

    done = outpace(tmp_path)  # what failed would fail again
    assert done.returncode == 0
    assert "0 to run" in done.stderr
    assert attempts(tmp_path) == [1, 1, 1, 1]
    done = outpace(tmp_path, "--retry-failed")
    assert done.returncode == 1
    assert sorted(attempts(tmp_path)) == [1, 1, 1, 2]
    left = {path.suffix for path in (tmp_path / "runs").iterdir()}
    assert left == {".h5", ".log", ".failed"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_early_and_the_same_command_goes_on(tmp_path: Path, number: int) -> None:
    """Ctrl-C as a terminal sends it, to the whole foreground group, and SIGTERM to the process alone."""
    text = QUICK.replace("0.5", "10") + "compute-time = 0.01\nseed = [0, 1]\n"
    (tmp_path / "sweep.toml").write_text('programs = ["allreduce_sgd"]\n' + text)
    env = environment(0)
    del env["OUTPACE_RANKS"]
    process = subprocess.Popen(
        [OUTPACE, "sweep", "sweep.toml"], cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True, process_group=0
    )
    pids = until_in_its_timed_part(tmp_path)
    time.sleep(1)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 128 + number
    assert f"stopped by {signal.Signals(number).name}; the same command goes on" in said
    assert die(pids.values(), 2)
    assert states(tmp_path) == ["partial", "missing"]
    assert not list((tmp_path / "runs").glob("*.failed"))
    done = outpace(tmp_path)
    assert done.returncode == 0, done.stderr
    assert states(tmp_path) == ["done", "done"]
    for point in load(tmp_path / "sweep.toml", tmp_path / "runs").points:
        assert len(Run(point.target).column("steps", "step")) == 10 * 1024 / 16
        assert not leftovers(point.target)


def test_killed_runner(tmp_path: Path) -> None:
    """`kill -9` of the runner ends its run, whole; until that is gone nobody starts it a second time."""
    text = QUICK.replace("0.5", "10") + "compute-time = 0.01\n"
    (tmp_path / "sweep.toml").write_text('programs = ["d_psgd"]\n' + text)
    process = start(tmp_path)
    pids = until_in_its_timed_part(tmp_path)
    os.kill(pids[0], signal.SIGSTOP)  # it ends only when it is killed, after 8 s
    process.kill()
    process.communicate()
    assert states(tmp_path) == ["running"]
    done = outpace(tmp_path)
    assert "1 running; 0 to run" in done.stderr
    assert die(pids.values(), 20)
    deadline = time.monotonic() + 20
    while states(tmp_path) == ["running"]:  # the guardian ends last
        assert time.monotonic() < deadline
    assert states(tmp_path) == ["partial"]
    assert outpace(tmp_path).returncode == 0
    assert states(tmp_path) == ["done"]
    assert attempts(tmp_path) == [2]


def test_a_closed_terminal_ends_it_early(tmp_path: Path) -> None:
    """The running point gets a checkpoint; nothing of it is left, and it has not failed."""
    text = QUICK.replace("0.5", "10") + "compute-time = 0.01\nseed = [0, 1]\n"
    (tmp_path / "sweep.toml").write_text('programs = ["allreduce_sgd"]\n' + text)
    env = environment(0)
    del env["OUTPACE_RANKS"]
    window, terminal = os.openpty()
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    take = functools.partial(fcntl.ioctl, terminal, termios.TIOCSCTTY, 0)
    process = subprocess.Popen(
        [OUTPACE, "sweep", "sweep.toml"], cwd=tmp_path, env=env, start_new_session=True, preexec_fn=take, **streams
    )
    os.close(terminal)
    pids = until_in_its_timed_part(tmp_path)
    time.sleep(1.5)
    os.close(window)
    assert process.wait(LIMIT_S) == 128 + signal.SIGHUP
    assert die(pids.values(), 2)
    assert states(tmp_path) == ["partial", "missing"]
    (log,) = (tmp_path / "runs").glob("*.log")
    assert b"\x1b" not in log.read_bytes()  # no bar in it


def test_killed_ranks_fail_their_point_with_the_cause(tmp_path: Path) -> None:
    text = QUICK.replace("0.5", "10") + "compute-time = 0.01\n"
    (tmp_path / "sweep.toml").write_text('programs = ["d_psgd", "allreduce_sgd"]\n' + text)
    process = start(tmp_path)
    pids = until_in_its_timed_part(tmp_path)
    os.kill(pids[1], signal.SIGKILL)
    _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert "rank 1: Killed, so the job ended" in said
    assert states(tmp_path) == ["failed", "done"]
    assert outpace(tmp_path, "--retry-failed").returncode == 0
    assert states(tmp_path) == ["done", "done"]


def test_two_runners_share_a_sweep(tmp_path: Path) -> None:
    """Started together they run each point once between them."""
    text = QUICK + 'stragglers = ["none", "fixed:rank=0,factor=2", "fixed:rank=1,factor=2"]\ncompute-time = 0.01\n'
    (tmp_path / "sweep.toml").write_text('programs = ["d_psgd", "allreduce_sgd"]\n' + text)
    runners = [start(tmp_path) for _ in range(2)]
    for runner in runners:
        _, said = runner.communicate(timeout=LIMIT_S)
        assert runner.returncode == 0, said
    assert states(tmp_path) == ["done"] * 6
    assert attempts(tmp_path) == [1] * 6


def test_own_time_per_point(tmp_path: Path) -> None:
    """200 points with a launcher that starts nothing: what is left is the sweep's own time."""
    text = QUICK.replace("workers = 2", "workers = 1\nrepetitions = 200")
    (tmp_path / "sweep.toml").write_text('programs = ["allreduce_sgd"]\n' + text)
    begin = time.monotonic()
    done = outpace(tmp_path, OUTPACE_LAUNCHER="true")
    each = (time.monotonic() - begin) / 200
    assert done.returncode == 1
    assert done.stderr.count("exit code 0: no output") == 200
    assert each < 0.25


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("sweep.toml", "programs = [", "sweep.toml: Invalid value (at end of document)"),
        ("sweep.toml", 'programs = ["ad_psgd"]\nworkers = 3', "odd cycle"),
        ("sweep.toml", 'programs = ["ad_psgd"]\nworkers = 2\nfolder = "/proc/sweep"', "/proc/sweep cannot be written"),
        ("sweep.toml", "# outpace manifest 1\n0123 outpace run", "not a whole manifest"),
    ],
)
def test_refused_before_anything_starts(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    done = outpace(tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(rf"outpace: .*{re.escape(said)}.*\n", done.stderr)
    assert os.listdir(tmp_path) == [name]


def test_no_sbatch_is_said(tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text('programs = ["d_psgd"]\n' + QUICK)
    done = outpace(tmp_path, "--slurm", PATH=str(tmp_path))
    assert done.returncode == 2
    assert "--slurm: no sbatch on the PATH" in done.stderr


def test_no_launcher_is_said(tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text('programs = ["d_psgd"]\n' + QUICK)
    done = outpace(tmp_path, OUTPACE_LAUNCHER="no-such-launcher")
    assert done.returncode == 2
    assert "outpace: there is no launcher no-such-launcher; see OUTPACE_LAUNCHER" in done.stderr
    assert states(tmp_path) == ["missing"]
