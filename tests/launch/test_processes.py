"""What starts with a job ends with it, whoever dies first; and what a launch does with streams and shared memory."""

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torture
from jobs import LIMIT_S, alive, die

from outpace.benchmarks.machine import launcher
from outpace.benchmarks.trace import checkpoint
from outpace.benchmarks.trace.run import Run

OUTPACE = str(Path(sys.executable).parent / "outpace")
LONG = ("--problem", "quadratic:dim=100,sigma=0.3", "--time-budget", "50", "--compute-time", "0.01")
WITHIN_S = 10


@pytest.fixture
def by(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """by(script, *words): `outpace` with a launcher that is this shell script."""

    def start(script: str, *words: str, **streams: int) -> subprocess.Popen[str]:
        path = tmp_path / "launcher"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
        environment = os.environ | {"OUTPACE_LAUNCHER": str(path)}
        return subprocess.Popen([OUTPACE, *words], cwd=tmp_path, env=environment, text=True, **piped)

    return start


RUN = ("run", "d_psgd", "-n", "2")


def test_the_job_ends_whole_when_outpace_is_killed(start: Callable) -> None:
    """`kill -9` of `outpace run`, which can tell nobody: the ranks are told to end, and go on from there later."""
    job = start("d_psgd", 2, *LONG, outpace=True)
    pids = job.wait_until_running(2, 1)
    job.process.kill()
    assert die(pids.values(), WITHIN_S)
    job.process.communicate()
    assert Run(job.target).attrs["status"] == "partial"
    assert checkpoint.common(job.target, 2) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_at_the_start_of_the_launcher(by: Callable, tmp_path: Path, number: int) -> None:
    """Sent when the command line is printed, which is just before: the job starts and ends with it."""
    for _ in range(3):
        process = by("echo $$ > pid; exec sleep 50", *RUN)
        assert "launcher -n 2" in process.stderr.readline()
        process.send_signal(number)
        _, err = process.communicate(timeout=WITHIN_S)
        assert process.returncode == {signal.SIGUSR1: 75}.get(number, 128 + number)
        assert err == ""
        pid = tmp_path / "pid"
        told = pid.read_text() if pid.exists() else ""  # nothing where the shell ended before it wrote
        assert not told or not alive(int(told))
        pid.unlink(missing_ok=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_ranks_come_up(by: Callable, tmp_path: Path, number: int) -> None:
    """It came before any was up, and went to the launcher; then one is, and is killed with the others. Open MPI ends
    with 1 for all of that."""
    rank = "import socket; told = socket.socket(socket.AF_UNIX); told.connect(chr(0) + '$OUTPACE_LAUNCHER_SOCKET')"
    rank += "; told.sendall(b'0\\n')"
    script = f"""trap "{sys.executable} -c \\"{rank}\\"; exit 1" TERM; touch ready; while :; do sleep 0.05; done"""
    process = by(script, *RUN)
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 128 + number, err


@pytest.mark.skipif(not torture.KERNEL_TELLS, reason="Linux before 6.15 forgets how a process ended")
@pytest.mark.parametrize(("code", "number"), [(9, signal.SIGHUP), (13, signal.SIGUSR2), (15, signal.SIGABRT)])
def test_a_signal_to_a_rank_that_is_not_up(by: Callable, code: int, number: signal.Signals) -> None:
    """The launcher kills the others and ends with the bits of all signals, as Hydra does: the kernel knows better."""
    signals = f"sleep 0.2; kill -{number.value} $second; kill -KILL $first; wait"
    script = f"PMI_RANK=0 sleep 50 & first=$!; PMI_RANK=1 sleep 50 & second=$!; {signals}; exit {code}"
    process = by(script, *RUN)
    _, err = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 128 + number, err
    assert f"rank 1: {signal.strsignal(number)}" in err


def test_a_launcher_that_outstays_its_ranks(by: Callable) -> None:
    """As Open MPI's may where one ends before it knows of it."""
    process = by("PMI_RANK=0 sleep 0.5 & PMI_RANK=1 sleep 0.5 & wait; exec sleep 50", *RUN)
    _, err = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 1
    assert "rank 0: ended before MPI was up" in err


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
def test_what_a_rank_died_of(start: Callable, number: signal.Signals) -> None:
    """Not what Hydra says, which kills the others and tells of the bits of both signals: `Terminated` for an abort."""
    job = start("d_psgd", 3, *LONG, outpace=True)
    os.kill(job.wait_until_running(3, 1)[1], number)
    code, _, err = job.end()
    assert code == 128 + number, err
    assert f"rank 1: {signal.strsignal(number)}, so the job ended" in err


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_at_the_very_end(start: Callable, number: int) -> None:
    """Sent to the ranks again and again from when the trace is there: the run is over, and has succeeded."""
    for _ in range(4):
        job = start("ad_psgd", 2, "--problem", "quadratic:dim=100,sigma=0.3", "--epochs", "20", outpace=True)
        pids = dict[int, int]()
        while not job.target.exists():
            pids = job.pids() or pids
            assert job.process.poll() is None
            time.sleep(0.001)
        while any(map(alive, pids.values())):
            for pid in pids.values():
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(0.001)
        code, _, err = job.end()
        assert (code, Run(job.target).attrs["status"]) == (0, "complete"), err
        assert "BAD TERMINATION" not in err
        job.target.unlink()


def test_a_signal_at_the_end_of_a_run_ends_its_study(tmp_path: Path) -> None:
    """The run is done all the same, but nothing is launched after it."""
    out = tmp_path / "run.h5"
    script = f"""
from pathlib import Path
from outpace.benchmarks.studies.launches import trace
trace(Path({str(out)!r}), "d_psgd", 2, "--problem", "quadratic:dim=10", "--epochs", "1")
print("goes on")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not out.exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    said, err = process.communicate(timeout=WITHIN_S)
    assert "d_psgd ended with exit code 0, and SIGTERM came" in err
    assert said.count("goes on") == 0
    assert Run(out).attrs["status"] == "complete"


def test_a_hang_up_before_anything_is_launched() -> None:
    """Ends the command, which loads MPI early: UCX would have it stop for ever."""
    script = "import os, outpace.benchmarks.command; from mpi4py import MPI; os.kill(os.getpid(), 1)"
    assert subprocess.run([sys.executable, "-c", script], timeout=WITHIN_S).returncode == -signal.SIGHUP


def test_signals_in_a_burst_all_arrive(by: Callable) -> None:
    """After SIGCONT the kernel gives the next signal to another thread, in which Python runs no handler."""
    for _ in range(5):
        process = by("echo up; exec sleep 50", *RUN)
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WITHIN_S)
        assert process.returncode == 128 + signal.SIGTERM


def test_a_launcher_that_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exit code is not missed, however soon it comes."""
    monkeypatch.setenv("OUTPACE_LAUNCHER", "false")
    assert [launcher.launch("none", 1, []).code for _ in range(20)] == [1] * 20


@pytest.mark.parametrize("end", ["exit 3", "kill -KILL $$"])
def test_what_left_the_session_ends_too(by: Callable, tmp_path: Path, end: str) -> None:
    """A process in a session of its own, whose parent is gone, as Hydra's proxies may be."""
    script = f"(setsid sh -c 'echo $$ > pid; exec sleep 50' &)\nuntil [ -s pid ]; do sleep 0.01; done\n{end}"
    process = by(script, *RUN)
    process.communicate(timeout=WITHIN_S)
    assert process.returncode == (3 if "exit" in end else 137)
    assert not alive(int((tmp_path / "pid").read_text()))


def test_the_launcher_does_not_outlive_its_guardian(by: Callable, tmp_path: Path) -> None:
    process = by("echo $$ > pid; kill -KILL $PPID; exec sleep 50", *RUN)
    process.communicate(timeout=WITHIN_S)
    assert process.returncode == 137
    assert not alive(int((tmp_path / "pid").read_text()))


def test_outpace_ends_after_what_its_guardian_leaves(by: Callable, tmp_path: Path) -> None:
    """Killed, the guardian waits for nobody. Whoever reads on must not find ranks that still write."""
    process = by("sleep 1 > /dev/null 2>&1 &\necho $! > pid; kill -KILL $PPID; wait", *RUN)
    process.communicate(timeout=WITHIN_S)
    assert process.returncode == 137
    assert not alive(int((tmp_path / "pid").read_text()))


FAILS = """
import os, sys
if "1" in (os.environ.get("PMI_RANK"), os.environ.get("PMIX_RANK")):
    {}
from mpi4py import MPI
"""


@pytest.mark.parametrize(
    ("end", "last"),
    [
        ("import no_such_module", " (ModuleNotFoundError: No module named 'no_such_module')"),
        ("os._exit(0)", ""),
    ],
)
def test_a_rank_that_ends_before_mpi_starts(tmp_path: Path, end: str, last: str) -> None:
    """The others would wait for it in MPI_Init for ever."""
    (tmp_path / "fails.py").write_text(FAILS.format(end))
    line = [OUTPACE, "run", "./fails.py", "-n", "3"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 1
    said = f"rank 1: ended before MPI was up{last}, so the job ended"
    assert done.stderr.splitlines()[-1] == said


INTERRUPTED = """
import sys

from mpi4py import MPI

if MPI.COMM_WORLD.rank == 1:
    del sys.modules["mpi4py.MPI"]  # as after an import that was interrupted
    raise KeyboardInterrupt
MPI.COMM_WORLD.Barrier()
"""


def test_a_rank_that_is_interrupted_while_it_imports_mpi(tmp_path: Path) -> None:
    """MPI is up, and mpi4py knows nothing of it: at its exit the rank would wait in MPI_Finalize for the others."""
    (tmp_path / "waits.py").write_text(INTERRUPTED)
    line = [OUTPACE, "run", "./waits.py", "-n", "2"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 128 + signal.SIGINT


def test_slurm_without_srun_is_refused(tmp_path: Path) -> None:
    """As in a container inside a job: Hydra would wait for ever."""
    beside = Path(sys.executable).parent
    (tmp_path / "mpiexec").symlink_to(beside / "mpiexec")
    job = {"SLURM_JOB_ID": "7", "SLURM_NODELIST": platform.node(), "SLURM_NNODES": "1", "SLURM_TASKS_PER_NODE": "2"}
    environment = os.environ | job | {"PATH": str(tmp_path)}
    flags = ["--problem", "quadratic:dim=2", "--epochs", "0.1", "--out", "run.h5"]

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        line = [OUTPACE, *RUN, *flags]
        here = environment | more
        return subprocess.run(line, cwd=tmp_path, env=here, capture_output=True, text=True, timeout=LIMIT_S)

    done = run()
    assert done.returncode == 2
    assert "this is inside Slurm's job 7, and there is no srun on the PATH" in done.stderr
    (remedy,) = re.findall(r"set (HYDRA_LAUNCHER)=(\w+)", done.stderr)
    done = run(**dict([remedy]))
    assert done.returncode == 0, done.stderr


def test_input_is_left_to_others(by: Callable) -> None:
    """A loop of a shell, `while read`, has the rest of its lines."""
    reading, writing = os.pipe()
    os.write(writing, b"the next line\n")
    os.close(writing)
    process = by("cat", *RUN, stdin=reading)
    out, _ = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out) == (0, "")
    assert os.read(reading, 99) == b"the next line\n"
    os.close(reading)


MUCH = "seq 100000; seq 100000 >&2; exit 3"  # more than a pipe holds


@pytest.mark.parametrize("closed", ["stdout", "stderr", "both"])
def test_streams_that_are_closed_from_the_start(by: Callable, tmp_path: Path, closed: str) -> None:
    by(MUCH, "--version").communicate(timeout=LIMIT_S)  # writes the launcher
    shut = {"stdout": ">&-", "stderr": "2>&-", "both": ">&- 2>&-"}[closed]
    line = ["sh", "-c", f"exec {OUTPACE} {' '.join(RUN)} {shut}"]
    environment = os.environ | {"OUTPACE_LAUNCHER": str(tmp_path / "launcher")}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 3
    assert done.stdout.endswith("\n100000\n") == (closed == "stderr")
    assert done.stderr.endswith("\n100000\n") == (closed == "stdout")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_goes_away(by: Callable, stream: str) -> None:
    """As `head` does: the job goes on, and its exit code stands."""
    with by(MUCH, *RUN) as process:
        getattr(process, stream).readline()
        getattr(process, stream).close()
        other = getattr(process, {"stdout": "stderr", "stderr": "stdout"}[stream]).read()
        assert process.wait(LIMIT_S) == 3
    assert other.endswith("\n100000\n")


def test_a_reader_of_a_list_goes_away() -> None:
    """A list that fits into the buffer is written when the process ends."""
    with subprocess.Popen([OUTPACE, "plot"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(LIMIT_S) == 0


def test_killed_ranks_leave_no_shared_memory(start: Callable) -> None:
    job = start("d_psgd", 2, *LONG, outpace=True)
    pids = job.wait_until_running(2, 0)
    maps = Path(f"/proc/{pids[0]}/maps").read_text()
    files = [Path(name) for name in re.findall(r"(/dev/shm/\S+)$", maps, re.MULTILINE)]
    assert files, "this MPI's shared memory has no name: nothing to test"
    job.kill()
    assert not [file for file in files if file.exists()]


@pytest.fixture
def little_memory() -> Iterator[Callable[[str], list[str]]]:
    """little_memory(size): what to put before a line that shall have a /dev/shm of that size."""
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("needs root and unshare, to mount a /dev/shm")
    inside = 'mount -t tmpfs -o size=$0 none /dev/shm && exec "$@"'
    return lambda size: ["unshare", "--mount", "sh", "-c", inside, size]


def test_too_little_shared_memory_is_named(little_memory: Callable, tmp_path: Path) -> None:
    """A bus error otherwise, or whatever MPI makes of it."""
    line = [*little_memory("1m"), OUTPACE, *RUN, *LONG]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode not in (0, 2)
    assert "/dev/shm, which MPI needs, has " in done.stderr.splitlines()[-1]
    assert "--shm-size" in done.stderr.splitlines()[-1]


def test_doctor_names_little_shared_memory(little_memory: Callable) -> None:
    line = [*little_memory("15m"), OUTPACE, "doctor"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert re.search(r"shared memory small /dev/shm, which MPI needs, has \d+ of 16 MB free", said), said


def test_random_kills() -> None:
    """A few of `make torture`."""
    start = time.monotonic()
    assert torture.main(["2", "--seed", "5", "--mpi", "MPICH"]) == 0
    print(f"{time.monotonic() - start:.1f} s")
