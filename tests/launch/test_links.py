"""A run behind links ends as every run does, whatever ends it; what is refused is refused before anything starts."""

import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jobs import LIMIT_S, Job, die, outpace

from outpace.benchmarks.machine import guardian, launcher
from outpace.benchmarks.running.recovery import recover
from outpace.benchmarks.sweeps.description import load
from outpace.benchmarks.sweeps.point import DONE, PARTIAL, Standing, standing
from outpace.benchmarks.trace import checkpoint
from outpace.benchmarks.trace.run import Run

OUTPACE = str(Path(sys.executable).parent / "outpace")
LINKS = ("--links", "all:rate=100mbit")
QUADRATIC = ("--problem", "quadratic:dim=100,sigma=0.3", "--compute-time", "0.01")
LONG = (*QUADRATIC, "--time-budget", "50", *LINKS)
WITHIN_S = 10


@pytest.fixture
def job(links_here: None, start: Callable) -> Iterator[Job]:
    """A run on 2 ranks in its timed part. When the test is over, no process of it may be left."""
    running = start("d_psgd", 2, *LONG, outpace=True)
    running.wait_until_running(2, 1.5)
    started = processes(running).values()
    yield running
    assert die(started, WITHIN_S)


def processes(job: Job) -> dict[str, int]:
    """The processes of a job by what they are, with their ids out here; those in its parts are the same."""
    ranks: dict[int, int] = {}
    guardian.ranks_below(job.process.pid, ranks, {})
    assert {rank: pid for pid, rank in ranks.items()} == job.pids()
    assert sorted(ranks.values()) == [0, 1]
    (of_guardian,) = guardian.children(job.process.pid)
    (unshare,) = guardian.children(of_guardian)
    (first,) = guardian.children(unshare)
    (mpiexec,) = guardian.children(first)
    chain = {"outpace": job.process.pid, "guardian": of_guardian, "first": first, "mpiexec": mpiexec}
    return chain | {f"rank {rank}": pid for pid, rank in ranks.items()}


@pytest.mark.long
@pytest.mark.parametrize("receiver", ["outpace", "guardian", "rank 1"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_ends_a_run_whole(job: Job, receiver: str, number: int) -> None:
    os.kill(processes(job)[receiver], number)
    code, out, err = job.end()
    assert code == {signal.SIGUSR1: 75}.get(number, 128 + number), err
    assert "the same command goes on from its checkpoint" in out
    assert Run(job.target).attrs["status"] == "partial"
    assert checkpoint.common(job.target, 2) == 1


def test_a_killed_rank_is_named(job: Job, tmp_path: Path) -> None:
    started = processes(job)
    memory = guardian.mapped(started["rank 0"]) | guardian.mapped(started["rank 1"])
    assert memory, "this MPI's shared memory has no name: nothing to test"
    os.kill(started["rank 1"], signal.SIGKILL)
    code, _, err = job.end()
    assert code == 128 + signal.SIGKILL, err
    kept = f"what was written is kept: outpace show --recover {tmp_path}"
    assert err.splitlines()[-1] == f"rank 1: Killed, so the job ended; {kept}"
    assert not [path for path in memory if os.path.exists(path)]
    (target,) = recover(tmp_path)
    assert Run(target).links == LINKS[1]


@pytest.mark.long
def test_two_jobs_at_once_share_nothing(links_here: None, start: Callable) -> None:
    """Mostly their processes have the same ids in their namespaces, after which MPI names its shared memory."""
    flags = (*QUADRATIC, "--time-budget", "4", *LINKS)
    jobs = [start("sign_sgd", 2, *flags, outpace=True, name=f"{k}.h5") for k in range(2)]
    for job in jobs:
        job.wait_until_running(2, 0)
    for job in jobs:
        paths = {path.decode() for pid in job.pids().values() for path in guardian.mapped(pid)}
        assert {os.path.dirname(path) for path in paths} == {"/dev/shm"}
    first, second = (os.stat(Path("/proc", str(job.pids()[0]), "root", "dev", "shm")) for job in jobs)
    assert not os.path.samestat(first, second)
    for job in jobs:
        code, _, err = job.end()
        assert code == 0, err


@pytest.mark.long
@pytest.mark.parametrize("receiver", ["guardian", "first", "mpiexec"])
def test_a_kill_of_what_holds_the_ranks(job: Job, tmp_path: Path, receiver: str) -> None:
    """The kernel ends everything in the namespaces with their first process; what was written is kept."""
    os.kill(processes(job)[receiver], signal.SIGKILL)
    code, _, err = job.end()
    assert code in ({1, 137} if receiver == "first" else {137}), err  # some unshare say 1
    (target,) = recover(tmp_path)
    assert len(Run(target).column("steps", "step")) > 10


@pytest.mark.long
def test_the_same_command_goes_on_after_a_kill_of_outpace(links_here: None, start: Callable) -> None:
    """It can tell nobody; its guardian tells the ranks, which end as after SIGTERM. The trace has the command."""
    job = start("d_psgd", 2, *QUADRATIC, "--time-budget", "3", *LINKS, outpace=True)
    job.wait_until_running(2, 1)
    started = processes(job).values()
    job.process.kill()
    assert die(started, WITHIN_S)
    job.end()
    before = Run(job.target)
    assert before.attrs["status"] == "partial"
    steps = len(before.column("steps", "step"))
    _, *words = shlex.split(before.attrs["command"])
    done = outpace(*words)
    assert done.returncode == 0, done.stderr
    assert "goes on from the checkpoint" in done.stderr
    run = Run(job.target)
    assert (run.attrs["status"], run.attrs["claim_class"]) == ("complete", "emulated")
    assert len(run.column("steps", "step")) > steps > 0


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_before_the_ranks_are_up(links_here: None, tmp_path: Path, number: int) -> None:
    line = [OUTPACE, "run", "d_psgd", "-n", "2", *LONG, "--out", str(tmp_path / "run.h5")]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "setpriv" in process.stderr.readline()
    process.send_signal(number)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == {signal.SIGUSR1: 75}.get(number, 128 + number), err
    assert "Traceback" not in err
    if number != signal.SIGUSR1:  # which waits for the ranks
        assert list(tmp_path.iterdir()) == []
        assert err == ""


@pytest.mark.long
def test_inside_a_slurm_job_of_one_node(links_here: None, tmp_path: Path) -> None:
    """Hydra would start its ranks by srun, and look for hosts, by these variables."""
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_NNODES": "1", "SLURM_TASKS_PER_NODE": "2"}
    more = job | {"SLURM_NODELIST": platform.node(), "HYDRA_LAUNCHER": "slurm", "HYDRA_HOST_FILE": "nowhere"}
    done = in_folder(tmp_path, [OUTPACE, "run", "d_psgd", "-n", "2", *QUADRATIC, *LINKS, "--epochs", "1"], **more)
    assert done.returncode == 0, done.stderr


SWEEP = f"""
programs = ["d_psgd"]
workers = 2
folder = "runs"
[flags]
problem = "quadratic:dim=4"
links = ["none", "{LINKS[1]}"]
"""
COMMANDS = {
    "run": ("run", "d_psgd", "-n", "2", *LONG),
    "race": ("race", "-n", "2", *LINKS),
    "micro": ("micro", "gossip", *LINKS),
    "sweep": ("sweep", "sweep.toml"),
    "point": ("sweep", "sweep.toml", "--point", "2"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_before_it_starts_anything(tmp_path: Path, name: str) -> None:
    (tmp_path / "sweep.toml").write_text(SWEEP)
    done = in_folder(tmp_path, [OUTPACE, *COMMANDS[name]], OUTPACE_LAUNCHER="/bin/true")
    assert done.returncode == 2
    assert re.fullmatch("outpace: --links needs (Hydra, .*/bin/true is another launcher|root, .*)\n", done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.toml"]
    assert done.stdout == ""


@pytest.mark.long
def test_a_sweep_of_links(links_here: None, tmp_path: Path) -> None:
    """Ctrl-C leaves a checkpoint of the point behind links, and the same command goes on with it."""
    (tmp_path / "sweep.toml").write_text(SWEEP + "compute-time = 0.01\ntime-budget = 3\n")
    _, slow = load(tmp_path / "sweep.toml", tmp_path / "runs").points
    line = [OUTPACE, "sweep", "sweep.toml"]
    job = Job(
        subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True), slow.target
    )
    job.wait_until_running(2, 0.5)
    job.process.send_signal(signal.SIGINT)
    assert job.end()[0] == 128 + signal.SIGINT
    assert standing(slow) == Standing(PARTIAL, "goes on from its checkpoint")
    done = in_folder(tmp_path, line)
    assert done.returncode == 0, done.stderr
    assert standing(slow).state == DONE
    assert Run(slow.target).links == LINKS[1]


def in_folder(folder: Path, line: list[str], **more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        line, cwd=folder, env=os.environ | more, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


def test_without_root(tmp_path: Path) -> None:
    """A sweep can still be looked at."""
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("needs setpriv, to be another user")
    (tmp_path / "sweep.toml").write_text(SWEEP)
    tmp_path.chmod(0o777)
    other = ["setpriv", "--reuid=65534", "--clear-groups", "--"] if os.geteuid() == 0 else []
    done = in_folder(tmp_path, [*other, OUTPACE, *COMMANDS["sweep"]])
    assert (done.returncode, done.stderr) == (2, "outpace: --links needs root, which may make network namespaces\n")
    for words, said in (("--dry-run", "--links=all:rate=100mbit"), ("--status", "2 missing")):
        done = in_folder(tmp_path, [*other, OUTPACE, *COMMANDS["sweep"], words])
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.toml"]


def test_a_program_that_was_started_without_outpace(tmp_path: Path) -> None:
    line = launcher.command("outpace.algorithms.d_psgd", 2, [*QUADRATIC, *LINKS])
    done = in_folder(tmp_path, line, **launcher.environment(2))
    assert done.returncode == 2
    assert done.stderr == f"d_psgd: --links is {LINKS[1]}, and the ranks are behind none: start them by `outpace run`\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_evaluations_are_not_behind_the_links(links_here: None, start: Callable) -> None:
    """Three of a model of 2 MB in float64 would take more than 90 s at 1 Mbit/s; a step of its signs takes 0.3 s."""
    began = time.monotonic()
    flags = ("--problem", "digits:hidden=3300", "--time-budget", "1", "--evaluations", "1", "--links", "all:rate=1mbit")
    code, _, err = start("sign_sgd", 2, *flags, outpace=True).end()
    assert code == 0, err
    assert time.monotonic() - began < 60
