"""Ranks behind slow links, for real: rates hold, each way at once, and change in time; nothing outlives the job."""

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from jobs import LIMIT_S, alive, die

from outpace.benchmarks.machine import launcher, link_changes, links, mpiexec, namespaces
from outpace.benchmarks.machine.links import Shared
from outpace.comm.errors import UserError

pytestmark = pytest.mark.usefixtures("links_here")

OUTPACE = str(Path(sys.executable).parent / "outpace")
NBYTES = 200_000
# For each pair of ranks: seconds of NBYTES one way, the other way, and both at once; the least after a first one.
TRANSFERS = f"""
import itertools, json, time
import numpy as np
from mpi4py import MPI

comm = MPI.COMM_WORLD
s, r = np.full({NBYTES}, comm.rank, np.uint8), np.empty({NBYTES}, np.uint8)

def least(*ways):
    seconds = []
    for _ in range(1 + 2 * len(ways)):
        comm.Barrier()
        start = time.monotonic()
        sent = [comm.Isend(s, b) for a, b in ways if a == comm.rank]
        for a, b in ways:
            if b == comm.rank:
                comm.Recv(r, a)
                assert (r == a).all()
        MPI.Request.Waitall(sent)
        seconds.append(comm.allreduce(time.monotonic() - start, MPI.MAX))
    return min(seconds[1:])

pairs = list(itertools.combinations(range(comm.size), 2))
seconds = [(least((a, b)), least((b, a)), least((a, b), (b, a))) for a, b in pairs]
if comm.rank == 0:
    print(json.dumps(seconds))
"""


def behind(spec: str, ranks: int, script: str, folder: Path) -> str:
    """What the script prints, on so many ranks behind these links."""
    path = folder / "script.py"
    path.write_text(script)
    line = [*namespaces.inside(spec, ranks), *mpiexec.mpiexec(), "-n", str(ranks), sys.executable, "-m", "mpi4py"]
    environment = launcher.environment(ranks) | {"MPIEXEC_TIMEOUT": "60"}
    done = subprocess.run([*line, str(path)], capture_output=True, text=True, timeout=LIMIT_S, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("spec", "mbits"),
    [
        ("all:rate=16mbit", {(0, 1): 16, (0, 2): 16, (1, 2): 16}),
        ("fixed:rank=2,rate=8mbit", {(0, 2): 8, (1, 2): 8}),
        pytest.param("fixed:rank=1,factor=4,others=32mbit", {(0, 1): 8, (0, 2): 32, (1, 2): 8}, marks=pytest.mark.long),
        ("pairs:file={csv},default=32mbit", {(0, 1): 8, (0, 2): 32, (1, 2): 16}),
        pytest.param("pairs:file={csv}", {(0, 1): 8, (1, 2): 16}, marks=pytest.mark.long),
    ],
)
def test_rates_hold_each_way_and_both_at_once(tmp_path: Path, spec: str, mbits: dict[tuple[int, int], int]) -> None:
    """One way alone shows both ends of a link; both at once would take twice as long if they shared it."""
    csv = tmp_path / "links.csv"
    csv.write_text("a,b,rate\n1,0,8mbit\n1,2,16mbit\n")
    seconds = json.loads(behind(spec.format(csv=csv), 3, TRANSFERS, tmp_path))
    for pair, taken in zip(itertools.combinations(range(3), 2), seconds, strict=True):
        if pair in mbits:
            least = NBYTES * 8 / mbits[pair] / 1e6
            *alone, both = (each / least for each in taken)
            assert all(0.95 < each < 1.3 for each in alone), (pair, taken)
            assert 0.95 < both < 1.6, (pair, taken)
        else:
            assert max(taken) < NBYTES * 8 / 60e6  # nothing limits these


# Seconds of two messages, there and back, the second time.
BACK_AND_FORTH = """
import time
from mpi4py import MPI

comm = MPI.COMM_WORLD
for _ in range(2):
    start = time.monotonic()
    comm.sendrecv(0, 1 - comm.rank)
    comm.sendrecv(0, 1 - comm.rank)
print(time.monotonic() - start)
"""


@pytest.mark.parametrize("spec", ["all:rate=100mbit", "fixed:rank=1,rate=100mbit", "pairs:file={csv},default=1gbit"])
def test_a_delay_is_that_of_every_message(tmp_path: Path, spec: str) -> None:
    """A kernel that has no netem, by which there are delays, is told of before anything starts."""
    (tmp_path / "links.csv").write_text("a,b,rate\n0,1,100mbit\n")
    spec = spec.format(csv=tmp_path / "links.csv") + ",delay=5ms"
    netem = ["unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
    if subprocess.run(netem, capture_output=True).returncode:
        with pytest.raises(UserError, match=r"^--links: `tc qdisc add .* netem .*`: .*the kernel module sch_netem\.$"):
            namespaces.inside(spec, 2)
    else:
        taken = [float(each) for each in behind(spec, 2, BACK_AND_FORTH, tmp_path).split()]
        assert all(0.01 < each < 0.1 for each in taken)


# Rank 0 sends 20 kB after 20 kB to rank 1; it prints the log of changes and, for each message, its start and end.
STREAM = """
import json, time
import numpy as np
from mpi4py import MPI
from outpace.benchmarks.machine import link_changes

comm = MPI.COMM_WORLD
x = np.zeros(20_000, np.uint8)
comm.Sendrecv_replace(x, 1 - comm.rank, source=1 - comm.rank)
if comm.rank == 0:
    t0 = time.monotonic()
    changes, log, messages = link_changes.Changes(3, t0), [], []
    while time.monotonic() < t0 + 6:
        start = time.monotonic() - t0
        comm.Send(x, 1)
        comm.Recv(x[:1], 1)
        messages.append((start, time.monotonic() - t0))
        log += changes.read()
    comm.Send(x[:1], 1)
    log += changes.read()
    print(json.dumps([log, messages]))
else:
    status = MPI.Status()
    while comm.Recv(x, 0, status=status) or status.Get_count(MPI.BYTE) > 1:
        comm.Send(x[:1], 0)
"""


@pytest.mark.long
@pytest.mark.parametrize("spec", ["shared:rate=10mbit,share=0.1,period=2,fraction=0.5"])
def test_shared_links_change_when_their_log_says_so(tmp_path: Path, spec: str) -> None:
    """A message of 20 kB takes 16 ms or, where one of the two links is slow, 160."""
    log, messages = json.loads(behind(spec, 2, STREAM, tmp_path))
    parsed = links.parse(spec)
    assert isinstance(parsed, Shared)
    for rank in range(2):
        mine = [(t_s, rate) for of, t_s, rate in log if of == rank]
        due = list(itertools.islice(link_changes.changes(parsed, 3, rank), len(mine)))
        assert len(mine) >= 4
        assert [rate for _, rate in mine] == [rate for _, rate in due]
        assert all(0 <= t_s - at_s < 1 for (t_s, _), (at_s, _) in zip(mine, due, strict=True))
    taken: dict[bool, list[float]] = {True: [], False: []}
    both_s = max(next(t_s for of, t_s, _ in log if of == rank) for rank in range(2))  # have their first rate
    for start, end in messages:
        # Once both are known, and none of the bucket's bytes are of another rate.
        if start > both_s and not any(start - 0.05 < t_s < end for _, t_s, _ in log):
            now = [[rate for of, t_s, rate in log if of == rank and t_s < start][-1] for rank in range(2)]
            taken[min(now) < 0.5e6].append(end - start)
    for slow, least in ((False, 0.016), (True, 0.16)):
        middle = sorted(taken[slow])[len(taken[slow]) // 2]
        assert 0.65 * least < middle < 2 * least, (slow, middle, len(taken[slow]))


@pytest.fixture
def job() -> Iterator["subprocess.Popen[str]"]:
    """A benchmark that takes minutes on its link, with all its ranks and the helper running."""
    spec = "shared:rate=100kbit,share=0.5,period=0.1,fraction=0.5"
    line = [OUTPACE, "micro", "gossip", "--links", spec]
    starts = f"{sys.executable}\0-m\0mpi4py".encode(), b"tc\0"  # of the ranks; of the helper, for them and the switch
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + LIMIT_S
        while [sum(words.startswith(start) for words in family(process.pid).values()) for start in starts] != [2, 3]:
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


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("moment", [0.3, 0.6, 0.8, 1.0, 1.3])  # s; links are made and ranks started in these
def test_nothing_outlives_an_early_end(moment: float, number: int) -> None:
    line = [OUTPACE, "micro", "gossip", "--links", "shared:rate=100kbit,share=0.5,period=0.1,fraction=0.5"]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        time.sleep(moment)
        started = list(family(process.pid))
        deadline = time.monotonic() + LIMIT_S
        while process.poll() is None and time.monotonic() < deadline:
            process.send_signal(number)  # again, as one does: an import in its midst may swallow a Ctrl-C
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
        process.kill()
    assert process.returncode != -signal.SIGKILL or number == signal.SIGKILL
    assert die(started, within_s=10)
    assert "port1" not in Path("/proc/net/dev").read_text()


def test_refused_in_one_line() -> None:
    done = subprocess.run(
        [OUTPACE, "micro", "vote", "--links", "all:rate=fast"], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 2
    assert (
        done.stderr
        == "outpace: --links all: rate is 'fast'; it must be from 8kbit to 100gbit; units: kbit, mbit, gbit\n"
    )
