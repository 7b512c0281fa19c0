"""Snapshots in a folder of the node's own: found again, or their loss is said."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from jobs import Job

from outpace.benchmarks.running.recovery import recover
from outpace.benchmarks.trace.parts import leftovers
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

LONG = ("--problem", "quadratic:dim=20,sigma=0.3", "--time-budget", "50", "--compute-time", "0.01")
Start = Callable[..., Job]


def killed(start: Start, *flags: str) -> Path:
    """The target of a run of two ranks that was killed after some seconds."""
    job = start("d_psgd", 2, *LONG, *flags)
    job.wait_until_running(2, 2.5)
    job.kill()
    return job.target


@pytest.mark.parametrize("there", [True, False])
def test_recovery_finds_them_or_says_so(start: Start, tmp_path: Path, there: bool) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    target = killed(start, "--scratch", str(scratch))
    assert not list(tmp_path.glob("*.models"))
    stores = sorted(scratch.iterdir())
    assert len(stores) == 2
    if there:
        assert list(recover(tmp_path)) == [target]
        assert list(scratch.iterdir()) == leftovers(target) == []
    else:
        stores[1].unlink()  # as seen from another node
        found = recover(tmp_path)
        assert next(found) == target
        with pytest.raises(UserError, match=f"{stores[1]} is not on this host"):
            next(found)
        assert stores[0].exists()
        assert leftovers(target)
        assert f"{stores[1]} is not on this host" in Run(target).attrs["damage"]
    run = Run(target)
    assert len(run.column("steps", "step")) > 20
    assert (len(run.column("evaluations", "loss")) > 2) == there


@pytest.mark.long
def test_a_run_goes_on_without_those_of_another_node(start: Start, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    flags = ("--problem", "quadratic:dim=20,sigma=0.3", "--epochs", "40", "--compute-time", "0.005")
    flags += ("--scratch", str(scratch))
    job = start("d_psgd", 2, *flags)
    job.wait_until_running(2, 0.5)
    job.process.send_signal(signal.SIGUSR1)
    assert job.end()[0] == 75
    assert len(list(scratch.iterdir())) == 2
    before = Run(job.target)
    for store in scratch.iterdir():
        store.unlink()
    code, _, err = start("d_psgd", 2, *flags).end()
    assert code == 0, err
    assert f"snapshots from before the checkpoint are not in {scratch}; they are not evaluated" in err
    run = Run(job.target)
    assert run.attrs["status"] == "complete"
    assert len(run.column("evaluations", "t_s")) > 2
    assert run.column("evaluations", "t_s")[1] >= before.attrs["wall_s"]
    assert list(scratch.iterdir()) == []


def test_a_scratch_that_is_not_there_is_refused(start: Start, tmp_path: Path) -> None:
    code, _, err = start("d_psgd", 2, *LONG, "--scratch", str(tmp_path / "nowhere")).end()
    assert code == 2
    assert "--scratch: rank 0 cannot write beside" in err
    assert "No such file or directory" in err
    assert list(tmp_path.iterdir()) == []
