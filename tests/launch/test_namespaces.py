"""Ranks behind slow links, for real: the rate holds, each way at once, and nothing outlives the job."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from jobs import LIMIT_S, alive, die

from outpace.benchmarks.machine import launcher, namespaces

pytestmark = pytest.mark.usefixtures("links_here")

OUTPACE = str(Path(sys.executable).parent / "outpace")
# Between all pairs of ranks in turn: 500 kB each way at the same time; rank 0 prints the seconds.
SENDRECV = """
import time
import numpy as np
from mpi4py import MPI

comm = MPI.COMM_WORLD
s, r = np.full(500_000, comm.rank, np.uint8), np.empty(500_000, np.uint8)
for shift in (1, 1, 2):
    peer, other = (comm.rank + shift) % comm.size, (comm.rank - shift) % comm.size
    comm.Barrier()
    start = time.monotonic()
    comm.Sendrecv(s, peer, 0, r, other, 0)
    seconds = comm.reduce(time.monotonic() - start, MPI.MAX)
    assert (r == other).all()
    if comm.rank == 0:
        print(seconds)
"""


def test_rate_and_full_duplex(tmp_path: Path) -> None:
    """3 ranks, 20 mbit: 500 kB take 200 ms out and in at the same time; one way after the other would take 400."""
    script = tmp_path / "sendrecv.py"
    script.write_text(SENDRECV)
    run = [*launcher.mpiexec(), "-n", "3", sys.executable, "-m", "mpi4py", str(script)]
    environment = launcher.environment(3) | {"MPIEXEC_TIMEOUT": "40"}
    done = subprocess.run(
        [*namespaces.inside("all:rate=20mbit", 3), *run],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    _, *seconds = map(float, done.stdout.split())  # the first one connects
    for each in seconds:
        assert 0.19 < each < 0.33
    free = subprocess.run(run, capture_output=True, text=True, timeout=LIMIT_S, env=environment)
    assert max(map(float, free.stdout.split())) < 0.15


@pytest.fixture
def job() -> Iterator["subprocess.Popen[str]"]:
    """A benchmark that takes minutes on its link, with all its ranks running."""
    line = [OUTPACE, "micro", "gossip", "--links", "all:rate=100kbit"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + LIMIT_S
        while sum(b"outpace.benchmarks.micro" in words for words in family(process.pid).values()) < 4:  # and mpiexec's
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.communicate()


def family(pid: int) -> dict[int, bytes]:
    """The command lines of all descendants of a process, by id; without those that end meanwhile."""
    found = {}
    with suppress(FileNotFoundError, ProcessLookupError):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            found |= {child: Path(f"/proc/{child}/cmdline").read_bytes()} | family(child)
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_job(job: "subprocess.Popen[str]", number: int) -> None:
    """Whichever way the command is ended: no process is left, and with them no namespace; none ever had a name."""
    started = list(family(job.pid))
    job.send_signal(number)
    assert job.wait(timeout=10) != 0
    assert die(started, within_s=5)
    names = Path("/run/netns")
    assert not names.exists() or not [path for path in names.iterdir() if path.name.startswith("rank")]
    assert not any(map(alive, started))


def test_refused_in_one_line() -> None:
    done = subprocess.run(
        [OUTPACE, "micro", "vote", "--links", "all:rate=fast"], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 2
    assert (
        done.stderr
        == "outpace: --links all: rate is 'fast'; it must be from 8kbit to 100gbit; units: kbit, mbit, gbit\n"
    )
