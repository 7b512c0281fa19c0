"""The lock of a name: one holder at a time, none after a kill, and something in its place where there are no locks."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from outpace.benchmarks.trace import lock
from outpace.benchmarks.trace.lock import Taken, held

HOLD = """
import sys, time
from pathlib import Path
from outpace.benchmarks.trace.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_at_a_time_and_nobody_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "run.h5.lock"
    line = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, env=os.environ | {"PYTHONSAFEPATH": "1"}) as process:
        assert process.stdout
        process.stdout.readline()
        with pytest.raises(Taken, match=f"process {process.pid}; if that is gone for good, remove {path}"), held(path):
            pass
        assert path.exists()  # whoever was refused leaves the holder's file
        process.kill()
    with held(path), pytest.raises(Taken, match=f"process {os.getpid()};"), held(path):
        pass
    assert not path.exists()


@pytest.mark.parametrize(
    ("owner", "free"),
    [
        ("{host} process {gone}", True),
        ("{host} process {alive}", False),
        ("elsewhere process {gone}", False),  # which cannot be seen from here
        ("elsewhere process {gone} job 77", True),  # this job's own earlier life
        ("elsewhere process {gone} job 7", False),
        ("", False),  # it is just being made
    ],
)
def test_where_there_are_no_locks_the_file_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: str, free: bool
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")  # what Lustre says without its option `flock`

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    path = tmp_path / "run.h5.lock"
    with held(path), pytest.raises(Taken), held(path):
        pass
    assert not path.exists()
    with subprocess.Popen(["true"]) as process:
        process.wait()
    path.write_text(owner.format(host=os.uname().nodename, gone=process.pid, alive=os.getppid()))
    if free:
        with held(path):
            assert lock.owner(path) == lock.myself()
    else:
        with pytest.raises(Taken), held(path):
            pass
        assert path.exists()
