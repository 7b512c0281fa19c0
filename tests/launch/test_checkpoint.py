"""Runs that end early with a checkpoint, or die after one, and go on when the same command is given again."""

import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from jobs import LIMIT_S, Job

from outpace.benchmarks.machine import guardian
from outpace.benchmarks.running.recovery import recover
from outpace.benchmarks.trace import checkpoint
from outpace.benchmarks.trace.inspection import validate
from outpace.benchmarks.trace.parts import leftovers
from outpace.benchmarks.trace.run import Run
from outpace.benchmarks.trace.schema import KIND

pytestmark = pytest.mark.long

FLAGS = ("--problem", "digits:hidden=8", "--epochs", "3", "--compute-time", "0.01", "--evaluations", "6")
SYNCHRONOUS = {
    "allreduce_sgd": ("--rule", "adam", "--step-size", "0.01"),
    "d2": ("--dtype", "float64"),
    "sign_sgd": ("--variant", "ef-signsgd"),
}
Start = Callable[..., Job]


def finished(job: Job, code: int = 0) -> Run:
    ended, out, err = job.end()
    assert ended == code, out + err
    validate(job.target)
    return Run(job.target)


def interrupted(job: Job, number: int, code: int, ranks: int = 2) -> Run:
    """The run's trace after that signal to the launcher half a second into its timed part."""
    job.wait_until_running(ranks, 0.5)
    job.process.send_signal(number)
    finished(job, code)
    assert checkpoint.common(job.target, ranks) == 1
    run = Run(shutil.copy(job.target, job.target.with_name("partial.h5")))  # the target is written again at the end
    assert run.attrs["status"] == "partial"
    return run


@pytest.mark.parametrize("program", SYNCHRONOUS)
def test_a_resumed_run_is_the_uninterrupted_one(start: Start, program: str) -> None:
    """Bit for bit in its models and losses, with the delays of the steps that they belong to."""
    flags = (*FLAGS, *SYNCHRONOUS[program], "--stragglers", "random:p=0.3,factor=2")
    whole = finished(start(program, 2, *flags, name="whole.h5"))
    partial = interrupted(start(program, 2, *flags), signal.SIGUSR1, 75)
    steps = len(partial.column("steps", "step"))
    assert 0 < steps < len(whole.column("steps", "step"))
    job = start(program, 2, *flags)
    resumed = finished(job)
    assert resumed.attrs["status"] == "complete"
    assert not leftovers(job.target)
    for column in ("model/x_mean", "evaluations/loss", "evaluations/samples", "traffic/nbytes"):
        group, name = column.split("/")
        np.testing.assert_array_equal(resumed.column(group, name), whole.column(group, name), err_msg=name)
    for name in ("step", "samples"):
        assert sorted(resumed.column("steps", name)) == sorted(whole.column("steps", name))
    injected = [np.sort(run.column("steps", "injected_s") > 0) for run in (whole, resumed)]
    assert injected[0].sum() == injected[1].sum() > 0
    # The clock goes on where it stood, without the time between.
    t_s = resumed.column("steps", "t_s")
    assert (np.diff(t_s) >= 0).all()
    np.testing.assert_allclose(t_s[:steps], partial.column("steps", "t_s"), rtol=0, atol=1e-3)
    assert np.diff(t_s)[steps - 1] < 0.5


def test_a_signal_during_set_up_is_not_lost(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes when both ranks have just begun; the first steps are made, and then it is taken."""
    name = f"outpace-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        listener.settimeout(LIMIT_S)
        monkeypatch.setenv(guardian.SOCKET, name)
        job = start("d_psgd", 2, *FLAGS)
        ranks = [listener.accept()[0] for _ in range(2)]
        job.process.send_signal(signal.SIGUSR1)
        partial = finished(job, 75)
        for rank in ranks:
            rank.close()
    assert 0 < len(partial.column("steps", "step")) <= 2 * 8


@pytest.mark.parametrize("program", ["ad_psgd", "a_psgd", "eamsgd", "ringmaster_asgd"])
def test_an_asynchronous_run_goes_on(start: Start, program: str) -> None:
    """Exactly the budget's gradients in all, and the loss goes on falling from where it was."""
    ranks = 2 + (program != "ad_psgd")  # a server beside the workers
    partial = interrupted(start(program, ranks, *FLAGS), signal.SIGTERM, 128 + signal.SIGTERM, ranks)
    total = round(3 * 1438 / 32) * 2
    assert 0 < len(partial.column("steps", "step")) < total
    resumed = finished(start(program, ranks, *FLAGS))
    assert resumed.attrs["status"] == "complete"
    assert len(resumed.column("steps", "step")) == total
    loss = resumed.column("evaluations", "loss")
    assert loss[-1] < partial.column("evaluations", "loss")[-1] < loss[0]


def test_rounds_of_all_workers_go_on_bit_for_bit(start: Start) -> None:
    """`m_sync_sgd` with m = n: it ends between two rounds, with no gradient under way, and none is dropped."""
    flags = (*FLAGS, "--m", "2", "--stragglers", "random:p=0.3,factor=2")
    whole = finished(start("m_sync_sgd", 3, *flags, name="whole.h5"))
    partial = interrupted(start("m_sync_sgd", 3, *flags), signal.SIGUSR1, 75, 3)
    assert 0 < len(partial.column("steps", "step")) < len(whole.column("steps", "step"))
    resumed = finished(start("m_sync_sgd", 3, *flags))
    assert not resumed.has("steps", "applied")
    for group, name in (("model", "x_mean"), ("traffic", "nbytes")):
        np.testing.assert_array_equal(resumed.column(group, name), whole.column(group, name), err_msg=name)
    assert sorted(resumed.column("steps", "step")) == sorted(whole.column("steps", "step"))


def test_a_crash_goes_on_from_the_last_checkpoint(start: Start, tmp_path: Path) -> None:
    """`--checkpoint-every`, then kill -9 of every rank: what came after the checkpoint is done again, once."""
    flags = (*FLAGS, "--checkpoint-every", "0.4")
    whole = finished(start("d_psgd", 2, *FLAGS, name="whole.h5"))
    job = start("d_psgd", 2, *flags)
    job.wait_until_running(2, 1.3)
    job.kill()
    assert checkpoint.common(job.target, 2) >= 2
    # A look at it does not end it.
    assert list(recover(tmp_path)) == [job.target]
    assert Run(job.target).attrs["status"] == "partial"
    resumed = finished(start("d_psgd", 2, *flags))
    for name in ("rank", "step", "samples"):
        assert sorted(resumed.column("steps", name)) == sorted(whole.column("steps", name))
    np.testing.assert_array_equal(resumed.column("model", "x_mean"), whole.column("model", "x_mean"))
    assert (
        resumed.column("events", "kind") == KIND["checkpoint"]
    ).sum() >= 2  # one on each rank, those before the crash
    assert not leftovers(job.target)


def test_a_checkpoint_of_other_flags_is_kept(start: Start) -> None:
    job = start("allreduce_sgd", 2, *FLAGS)
    interrupted(job, signal.SIGUSR1, 75)
    code, _, err = start("allreduce_sgd", 2, *FLAGS, "--seed", "1").end()
    assert code == 2
    assert "has a checkpoint of a run with other flags; name another file or add --overwrite" in err
    assert checkpoint.common(job.target, 2) == 1
    assert finished(start("allreduce_sgd", 2, *FLAGS, "--seed", "1", "--overwrite")).attrs["status"] == "complete"
    assert not leftovers(job.target)


def test_a_damaged_checkpoint_is_named(start: Start) -> None:
    job = start("allreduce_sgd", 2, *FLAGS)
    interrupted(job, signal.SIGUSR1, 75)
    file = checkpoint.path(job.target, 1, 1)
    file.write_bytes(file.read_bytes()[:-100])
    code, _, err = start("allreduce_sgd", 2, *FLAGS).end()
    assert code == 2
    assert f"rank 1: the checkpoint {file} cannot be read" in err


def test_a_generation_that_not_all_ranks_have_does_not_count(tmp_path: Path) -> None:
    """A job that died while it wrote one goes on from the generation before."""
    target = tmp_path / "run.h5"
    counters = checkpoint.Counters("id", {}, 5, 5, 5, 1.0, 100, 1, 1, [0, 0], [0, 0])
    for rank, generation in [(0, 1), (1, 1), (0, 2)]:
        kept = {"x": np.arange(3.0), "rng": np.random.default_rng(rank).bit_generator.state}
        checkpoint.write(target, rank, generation, checkpoint.Checkpoint(counters, kept))
    (tmp_path / "run.h5.part-1.state-2.unfinished").write_text("half")
    assert checkpoint.common(target, 2) == 1
    read = checkpoint.read(target, 1, 1)
    assert read.counters == counters
    assert read.kept["rng"] == np.random.default_rng(1).bit_generator.state
    np.testing.assert_array_equal(read.kept["x"], np.arange(3.0))
    checkpoint.forget(target, 0, before=2)
    assert checkpoint.generations(target, 0) == [2]
