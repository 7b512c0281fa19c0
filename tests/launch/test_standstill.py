"""A run in which nothing happens: every rank says so once, and where each of its threads waits."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import LIMIT_S
from own_programs import HEAD, TAIL

from outpace.benchmarks.machine import launcher

# Rank 1 works for longer than a standstill takes to be told, then waits for a message that nobody sends; rank 0, which
# hands out the rounds, can then only wait for rank 1.
HANGS = f"""
from outpace.benchmarks.running import standstill
from outpace.comm import clock

standstill.STILL_S = 2.0

{HEAD}
    asynchronous = True


def run(comm, problem, cfg, budget, trace):
    x = problem.x0()
    for k in budget:
        clock.sleep(comm, 0.1)
        trace.record()
        if comm.rank == 1 and k >= 60:
            comm.Recv(x, 0, 99)
    return x

{TAIL}"""


@pytest.mark.long
def test_every_rank_says_where_it_waits(tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    program = [sys.executable, "-m", "mpi4py", "hangs.py", "--problem", "quadratic:dim=3", "--out", "run.h5"]
    process = subprocess.Popen(
        [*launcher.mpiexec(), "-n", "2", *program, "--epochs", "0.07"],
        env=launcher.environment(2) | {"MPIEXEC_TIMEOUT": str(LIMIT_S)},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    told: list[str] = []
    with process:
        assert process.stderr
        for text in process.stderr:
            told += [text] if "nothing has happened" in text else []
            if len(told) == 2:
                process.terminate()  # it ends some seconds later, in which nobody says it again
    told.sort()
    assert len(told) == 2
    line = next(number for number, text in enumerate(HANGS.splitlines(), 1) if "Recv(x" in text)
    start = r"rank {}: nothing has happened here for \d+ s; its threads are at: "
    since = r", for \d+ s: "
    assert re.match(start.format(0), told[0])
    assert re.search(f"MainThread{since}comm/tickets.py:\\d+ \\(self._thread.join\\(\\)\\)", told[0])
    assert re.search(f"_hand_out{since}comm/tickets.py:\\d+ \\(.*clock.poll\\(comm, asked\\)\\)", told[0])
    here = f"hangs.py:{line} \\(comm.Recv\\(x, 0, 99\\)\\)"
    assert re.match(start.format(1) + f"MainThread{since}{here}", told[1])
