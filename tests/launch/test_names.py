"""The name of a run: one run has it at a time, nothing that is another's is replaced, and a run is what it reads."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from jobs import Job, outpace

from outpace.benchmarks.running.recovery import recover
from outpace.benchmarks.trace import checkpoint, lock
from outpace.benchmarks.trace.inspection import validate
from outpace.benchmarks.trace.parts import leftovers, part_path
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

GOLDEN = Path(__file__).parents[1] / "golden" / "trace-v1.h5"
SHORT = ("--problem", "quadratic:dim=20,sigma=0.3", "--time-budget", "3", "--compute-time", "0.01")
LONG = ("--problem", "quadratic:dim=20,sigma=0.3", "--time-budget", "50", "--compute-time", "0.01")
Start = Callable[..., Job]


def test_of_runs_started_together_one_has_the_name(start: Start, tmp_path: Path) -> None:
    """Told to overwrite, all of them. What is left is of the one that ran, and whole."""
    programs = ("allreduce_sgd", "d_psgd", "ad_psgd")
    jobs = [start(program, 2, *SHORT, "--overwrite") for program in programs]
    ended = [job.end() for job in jobs]
    assert sorted(code for code, _, _ in ended) == [0, 2, 2]
    for code, _, err in ended:
        assert code == 0 or f"{jobs[0].target} is being written by another run" in err
    validate(jobs[0].target)
    run = Run(jobs[0].target)
    assert run.attrs["algorithm"] == programs[[code for code, _, _ in ended].index(0)]
    assert run.attrs["status"] == "complete"
    assert sorted(tmp_path.iterdir()) == [jobs[0].target]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_appears_in_mid_run(start: Start, tmp_path: Path, overwrite: bool) -> None:
    job = start("d_psgd", 2, *SHORT, *(["--overwrite"] if overwrite else []))
    job.wait_until_running(2, 0.1)
    shutil.copy(GOLDEN, job.target)
    code, out, err = job.end()
    assert code == 0, err
    written = job.target if overwrite else tmp_path / "run-2.h5"
    assert Run(written).attrs["algorithm"] == "d_psgd"
    assert f"wrote {written}" in out
    assert sorted(tmp_path.iterdir()) == sorted({job.target, written})
    if not overwrite:
        assert f"since meanwhile {job.target} has become another's" in out
        assert job.target.read_bytes() == GOLDEN.read_bytes()


@pytest.mark.long
def test_overwrite_goes_on_and_anew_does_not(start: Start) -> None:
    """What a run says when it ends early holds for the command that it was given."""
    flags = ("--problem", "quadratic:dim=20,sigma=0.3", "--epochs", "40", "--compute-time", "0.005", "--overwrite")
    for again, goes_on in ((flags, True), ((*flags, "--anew"), False)):
        job = start("d_psgd", 2, *flags)
        job.wait_until_running(2, 0.3)
        job.process.terminate()
        code, out, _ = job.end()
        assert code == 128 + signal.SIGTERM
        assert "the same command goes on from its checkpoint" in out
        assert checkpoint.common(job.target, 2) == 1
        code, _, err = start("d_psgd", 2, *again).end()
        assert code == 0, err
        assert ("goes on from the checkpoint" in err) == goes_on
        assert Run(job.target).attrs["status"] == "complete"
        assert not leftovers(job.target)


DATA = "1 1:0.5 2:1\n-1 1:1 2:-0.5\n1 1:0.25\n-1 2:0.75\n"


@pytest.mark.long
def test_a_run_goes_on_with_the_data_that_it_began_with(start: Start, tmp_path: Path) -> None:
    data = tmp_path / "data.svm"
    data.write_text(DATA)
    flags = ("--problem", f"libsvm:path={data}", "--epochs", "1000", "--compute-time", "0.005", "--batch-size", "1")
    job = start("d_psgd", 2, *flags)
    job.wait_until_running(2, 0.3)
    job.process.send_signal(signal.SIGUSR1)
    assert job.end()[0] == 75
    before = Run(job.target).attrs
    data.write_text(DATA.replace("0.25", "0.26"))
    code, _, err = start("d_psgd", 2, *flags).end()
    assert code == 2
    assert f"has a checkpoint of a run before {data} changed" in err
    with pytest.raises(UserError, match=f"{data} changed since the run"):
        list(recover(tmp_path))
    code, _, err = start("d_psgd", 2, *flags, "--overwrite", "--time-budget", "0.1").end()
    assert code == 0, err
    after = Run(job.target).attrs
    assert before["inputs"] != after["inputs"]
    assert before["config_id"] != after["config_id"]


def test_what_one_rank_left_alone_is_no_trace(start: Start, tmp_path: Path) -> None:
    """Rank 0's part is gone. The run and the recovery say the same, and other runs are recovered."""
    job = start("d_psgd", 2, *LONG)
    job.wait_until_running(2, 2.5)
    job.kill()
    assert lock.of(job.target).exists()  # nobody was left to remove it; it holds nobody up
    for path in leftovers(job.target):
        shutil.copy(path, path.with_name(path.name.replace("run.h5", "other.h5")))
    part_path(job.target, 0).unlink()
    code, _, err = start("d_psgd", 2, *LONG).end()
    assert code == 2
    assert "is left of a killed run, which is not enough for a trace; --overwrite" in err
    done = outpace("show", "--recover", str(tmp_path))
    assert done.returncode == 1
    assert f"recovered {tmp_path / 'other.h5'}" in done.stdout
    assert f"{job.target}: the part of rank 0 is missing" in done.stderr
    validate(tmp_path / "other.h5")
