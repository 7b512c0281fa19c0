"""How jobs end when something goes wrong: soon, everywhere, with one line that says what, and what was kept."""

import fcntl
import functools
import os
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import h5py
import pytest
from jobs import LIMIT_S, Job, die, outpace
from own_programs import HEAD, TAIL

from outpace.benchmarks.machine.launcher import command, environment
from outpace.benchmarks.running.recovery import recover
from outpace.benchmarks.trace import checkpoint
from outpace.benchmarks.trace.inspection import validate
from outpace.benchmarks.trace.parts import leftovers
from outpace.benchmarks.trace.run import Run

LONG = ("--problem", "quadratic:dim=100,sigma=0.3", "--time-budget", "50", "--compute-time", "0.01")
LONG += ("--evaluations", "200")  # the first of them within the first second
PROGRAMS = ("allreduce_sgd", "d_psgd", "ad_psgd", "d2", "a_psgd", "eamsgd", "m_sync_sgd")
WITHIN_S = 10


def check_recovered(folder: Path) -> None:
    (target,) = recover(folder)
    validate(target)
    run = Run(target)
    assert run.attrs["status"] == "partial"
    assert len(run.column("steps", "step")) > 20
    loss = run.column("evaluations", "loss")
    assert len(loss) >= 2
    assert loss[-1] < loss[0]
    assert not leftovers(target)


@pytest.mark.parametrize("program", PROGRAMS)
def test_killed_rank(start: Callable, tmp_path: Path, program: str) -> None:
    """`kill -9` of one rank: the job ends, `outpace run` names rank and cause, the rest is recoverable."""
    job = start(program, 4, *LONG, outpace=True)
    pids = job.wait_until_running(4, 2.5)
    os.kill(pids[2], signal.SIGKILL)
    killed = time.monotonic()
    code, _, err = job.end()
    assert time.monotonic() - killed < WITHIN_S
    assert code != 0
    assert "rank 2: Killed, so the job ended; what was written is kept" in err
    assert f"outpace show --recover {tmp_path}" in err
    assert die(pids.values(), 2)
    check_recovered(tmp_path)


@pytest.mark.parametrize("program", PROGRAMS)
def test_killed_launcher(start: Callable, tmp_path: Path, program: str) -> None:
    """`kill -9` of mpiexec leaves no rank behind."""
    job = start(program, 4, *LONG)
    pids = job.wait_until_running(4, 2.5)
    job.process.kill()
    assert die(pids.values(), WITHIN_S), "a rank outlives its launcher"
    job.process.communicate()
    check_recovered(tmp_path)


@pytest.mark.parametrize("program", PROGRAMS)
def test_sigterm_ends_with_a_whole_trace(start: Callable, program: str) -> None:
    """SIGTERM to the launcher, as `scancel` and `timeout` send it: an agreed early end, evaluated and merged, with a
    checkpoint to go on from."""
    job = start(program, 4, *LONG)
    job.wait_until_running(4, 1.0)
    job.process.terminate()
    told = time.monotonic()
    code, out, _ = job.end()
    assert time.monotonic() - told < WITHIN_S
    assert code == 128 + signal.SIGTERM
    assert "partial" in out
    validate(job.target)
    run = Run(job.target)
    assert run.attrs["status"] == "partial"
    assert run.column("evaluations", "loss")[-1] < run.column("evaluations", "loss")[0]
    assert checkpoint.common(job.target, 4) == 1


@pytest.mark.long
@pytest.mark.parametrize("program", ["allreduce_sgd", "d_psgd"])
def test_sigterm_while_blocked_in_mpi(start: Callable, tmp_path: Path, program: str) -> None:
    """One rank is stopped, so the others are blocked inside MPI and no end can be agreed: the job is aborted."""
    job = start(program, 4, *LONG)
    pids = job.wait_until_running(4, 2.5)
    os.kill(pids[1], signal.SIGSTOP)
    time.sleep(0.5)
    os.kill(pids[0], signal.SIGTERM)
    told = time.monotonic()
    code, _, err = job.end()
    assert time.monotonic() - told < WITHIN_S
    assert code != 0
    assert "rank 0: SIGTERM, and the run did not end within 5 s" in err
    assert die(pids.values(), 2)
    check_recovered(tmp_path)


@pytest.mark.parametrize("what", ["Ctrl-C", "hang-up"])
def test_a_terminal_ends_a_run_whole(tmp_path: Path, what: str) -> None:
    """Ctrl-C would reach mpiexec twice, from the terminal and from `outpace`, and kill the job; a closed window would
    leave it without anybody to end it."""
    line = [str(Path(sys.executable).parent / "outpace"), "run", "d_psgd", "-n", "2", *LONG, "--out", "run.h5"]
    keyboard, terminal = os.openpty()
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    take = functools.partial(fcntl.ioctl, terminal, termios.TIOCSCTTY, 0)
    process = subprocess.Popen(line, cwd=tmp_path, start_new_session=True, preexec_fn=take, **streams)
    os.close(terminal)
    job = Job(process, tmp_path / "run.h5")
    job.wait_until_running(2, 0.5)
    if what == "Ctrl-C":
        os.write(keyboard, b"\x03")
        threading.Thread(target=_read_to_the_end, args=(keyboard,)).start()
        assert job.end()[0] == 128 + signal.SIGINT
    else:
        os.close(keyboard)
        job.end()
    assert Run(job.target).attrs["status"] == "partial"
    assert checkpoint.common(job.target, 2) == 1


def _read_to_the_end(descriptor: int) -> None:
    with suppress(OSError):  # the other side of the terminal is closed
        while os.read(descriptor, 1024):
            pass
    os.close(descriptor)


@pytest.mark.long
def test_a_second_launch_does_the_first_no_harm(start: Callable, tmp_path: Path) -> None:
    """Both have the same name. The second is refused, be it told to overwrite; the first one's files stay."""
    first = start("ad_psgd", 2, *LONG, "--epochs", "40")
    first.wait_until_running(2, 0.2)
    before = sorted(tmp_path.iterdir())
    for flags in ((), ("--overwrite",)):
        code, _, err = start("ad_psgd", 2, *LONG, "--epochs", "20", *flags).end()
        assert code == 2
        assert f"{first.target} is being written by another run" in err
    assert sorted(tmp_path.iterdir()) == before
    code, _, err = first.end()
    assert code == 0, err
    validate(first.target)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", folder], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"cannot mount a small file system: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk(start: Callable, small_disk: Path) -> None:
    """The disk fills up while the run goes on."""
    flags = ["--problem", "quadratic:dim=10", "--time-budget", "50", "--evaluations", "2", "--compute-time", "0.001"]
    job = start("ad_psgd", 2, *flags, folder=small_disk)
    pids = job.wait_until_running(2, 0)
    code, _, err = job.end()
    assert code == 1
    assert re.search("rank [01]: cannot write its part of the trace: No space left on device", err), err
    assert die(pids.values(), 2)
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)  # room was made
    (target,) = recover(small_disk)
    assert len(Run(target).column("steps", "step")) > 100


def test_disk_full_at_the_merge(start: Callable, small_disk: Path) -> None:
    """The parts fit, the merged file does not: exit 1, no half a trace, and the parts are kept."""
    flags = ["--problem", "quadratic:dim=9500", "--epochs", "1", "--evaluations", "1", "--compute-time", "0.001"]
    code, _, err = start("allreduce_sgd", 2, *flags, "--dtype", "float64", folder=small_disk).end()
    assert code == 1
    assert "rank 0: cannot write" in err
    left = sorted(path.name for path in small_disk.iterdir())
    assert left == ["run.h5.part-0", "run.h5.part-0.models", "run.h5.part-1", "run.h5.part-1.models"]


def fill(folder: Path) -> None:
    """Leave not a byte of room on that disk."""
    with open(folder / "filling", "ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def kept(folder: Path) -> list[Path]:
    """All but locks, which come and go, and logs, which begin with every attempt."""
    return sorted(path for path in folder.rglob("*") if path.suffix not in (".lock", ".log"))


def test_a_full_disk_ends_every_command_in_one_line(start: Callable, small_disk: Path) -> None:
    """Nothing half-written is left, and with room again each of them does its work."""
    job = start("d_psgd", 2, "--problem", "quadratic:dim=10", "--time-budget", "50", folder=small_disk)
    job.wait_until_running(2, 1.5)
    job.kill()
    sweep = small_disk.parent / "sweep.toml"
    sweep.write_text(
        f'programs = ["d_psgd"]\nworkers = 2\nfolder = "{small_disk}/runs"\n'
        '[flags]\nproblem = "quadratic:dim=10"\nepochs = 0.5\n'
    )
    (small_disk / "runs").mkdir()
    fill(small_disk)
    before, golden = kept(small_disk), str(Path(__file__).parents[1] / "golden" / "trace-v1.h5")
    for line, code in (
        (["show", "--recover", str(small_disk)], 1),
        (["sweep", str(sweep)], 2),
        (["export", golden, "--csv", str(small_disk / "runs.csv")], 2),
    ):
        fill(small_disk)
        done = outpace(*line)
        assert done.returncode == code
        said = done.stderr.splitlines()[-1]
        assert "No space left on device" in said
        assert said.startswith("outpace: ")
        assert "Traceback" not in done.stderr
        assert kept(small_disk) == before
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)  # room was made
    assert outpace("show", "--recover", str(small_disk)).returncode == 0
    assert outpace("sweep", str(sweep)).returncode == 0


def test_no_room_for_the_store_is_said_before_the_run(start: Callable, small_disk: Path) -> None:
    """The snapshots are mapped: without a reservation a full disk would be a fatal bus error in the middle."""
    code, _, err = start("d_psgd", 2, "--problem", "quadratic:dim=10000", folder=small_disk).end()
    assert code == 2
    assert "cannot write beside" in err
    assert "No space left on device" in err
    assert list(small_disk.iterdir()) == []


def test_no_room_for_one_rank_leaves_nothing_of_the_others(start: Callable, small_disk: Path) -> None:
    """Room for one store of snapshots of 400 kB, and for no second one."""
    flags = ["--problem", "quadratic:dim=3500", "--evaluations", "20", "--dtype", "float32"]
    code, _, err = start("d_psgd", 2, *flags, folder=small_disk).end()
    assert code == 2
    assert "No space left on device" in err
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_divergence(start: Callable, program: str) -> None:
    """A step size far too large: exit 1, step and rank named, and the trace is whole."""
    job = start(
        program, 2, "--problem", "quadratic:dim=10", "--step-size", "1e6", "--epochs", "50", "--compute-time", "0.001"
    )
    code, _, err = job.end()
    assert code == 1
    said = next(line for line in err.splitlines() if line.startswith(f"{program}: rank "))
    assert "step " in said
    assert "not finite" in said
    validate(job.target)
    with h5py.File(job.target) as file:
        assert file.attrs["status"] == "diverged"
        assert len(file["steps/step"]) < 3000
    assert not leftovers(job.target)


def test_exception_in_the_communication_thread(tmp_path: Path) -> None:
    """The job must not go on without averaging, and not hang."""
    program = tmp_path / "broken.py"
    program.write_text(
        "from mpi4py import MPI\n"
        "from outpace.comm import threads\n"
        "def fail():\n"
        "    raise ValueError('the averaging thread broke')\n"
        "comm = MPI.COMM_WORLD\n"
        "if comm.rank == 1:\n"
        "    threads.start(comm, fail)\n"
        "comm.recv(source=comm.rank)  # what never comes\n"
    )
    line = command("broken", 2, [])
    done = subprocess.run(
        line,
        env=environment(2) | {"PYTHONSAFEPATH": "", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode != 0
    assert "rank 1: exception in the communication thread" in done.stderr
    assert "the averaging thread broke" in done.stderr


FINDING = f"""
from outpace.comm.errors import LocalError

{HEAD}

def run(comm, problem, cfg, budget, trace):
    x = problem.x0()
    for k in budget:
        if k == 3 and comm.rank == 1:
            raise LocalError("an image is damaged")
        trace.snapshot(x)
        comm.sendrecv(k, (comm.rank + 1) % comm.size, source=comm.rank - 1 if comm.rank else comm.size - 1)
        trace.record()
    return x

{TAIL}"""


def test_what_one_rank_finds_in_mid_run_ends_the_job_in_one_line(tmp_path: Path) -> None:
    """The others, which wait for it, are not waited for; what was recorded is kept."""
    program = tmp_path / "finding.py"
    program.write_text(FINDING)
    target = tmp_path / "run.h5"
    began = time.monotonic()
    done = outpace("run", str(program), "-n", "3", "--problem", "quadratic:dim=3", "--out", str(target))
    assert done.returncode == 2
    assert time.monotonic() - began < 60
    said = done.stderr.splitlines()
    assert said.count("rank 1: an image is damaged") == 1
    assert "Traceback" not in done.stderr
    assert len([path for path in leftovers(target) if re.search(r"part-\d$", path.name)]) == 3


DROPPED = """
import os, signal, sys, weakref

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "outpace.benchmarks.command.arguments":
            found = type("Found", (), {})()
            self.reference = weakref.ref(found, lambda _: os.kill(os.getpid(), signal.SIGINT))

signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it would be ignored
sys.meta_path.insert(0, Finder())
from outpace.benchmarks.command import main
sys.exit(main([]))
"""


def test_ctrl_c_in_the_imports_of_the_command() -> None:
    """In a callback, of which Python would only say that it ignores the exception."""
    done = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, text=True, timeout=LIMIT_S)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
