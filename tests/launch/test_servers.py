"""The parameter-server programs as whole jobs: flags, what their traces hold, and a lost server."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from harness import shares
from jobs import LIMIT_S, die

from outpace.benchmarks.machine.launcher import command, environment
from outpace.benchmarks.running.recovery import recover
from outpace.benchmarks.trace.inspection import validate
from outpace.benchmarks.trace.run import Run

PROGRAMS = ("a_psgd", "eamsgd", "ringmaster_asgd")


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("ranks", "flags", "said"),
    [
        (3, ["--servers", "0"], "--servers is 0; it must be at least 1"),
        (3, ["--servers", "3"], "--servers is 3; with 3 rank(s) it must be less than 3"),
        (1, [], "--servers is 1; with 1 rank(s) it must be less than 1"),
        (5, ["--servers", "3", "--problem", "quadratic:dim=2"], "--servers is 3; the model has 2 coordinate(s)"),
        (3, ["--stragglers", "fixed:rank=2,factor=10"], "--stragglers fixed: rank is 2; it must be at most 1"),
    ],
    ids=["none", "all", "alone", "too many", "slow server"],
)
def test_refused(tmp_path: Path, program: str, ranks: int, flags: list[str], said: str) -> None:
    line = command(f"outpace.algorithms.{program}", ranks, flags)
    done = subprocess.run(
        line, env=environment(ranks), cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("servers", [1, 2])
def test_trace_is_of_the_servers_model(start: Callable, program: str, servers: int) -> None:
    """The losses belong to the model that the servers hold, workers and servers are told apart, the clock is one."""
    problem = "quadratic:dim=7,zeta=1"
    flags = ["--problem", problem, "--epochs", "4", "--compute-time", "0.002", "--servers", str(servers)]
    job = start(program, 3 + servers, *flags, "--dtype", "float64")
    code, _, err = job.end()
    assert code == 0, err
    validate(job.target)
    run = Run(job.target)
    assert run.attrs["n_workers"] == 3
    assert len(run.attrs["n_samples"]) == 3
    everyone = shares(problem, 3)
    assert run.objects["constants"] == {"zeta2": pytest.approx(everyone[0].zeta2)}
    x = run.column("model", "x_mean")
    assert run.final_loss() == pytest.approx(sum(f.loss(x) for f in everyone) / 3, rel=1e-12)
    assert run.column("evaluations", "loss")[0] == pytest.approx(sum(f.loss(0 * x) for f in everyone) / 3, rel=1e-12)
    assert len(run.column("evaluations", "loss")) > 10
    assert not run.column("evaluations", "consensus").any()
    assert run.column("steps", "rank").max() == 2
    assert len(run.column("steps", "rank")) == 4 * 1024 // 16 - 1  # 85 gradients of each worker
    assert run.column("traffic", "nbytes").shape == (3 + servers, 3 + servers)
    assert (np.diff(run.column("steps", "t_s")) >= 0).all()
    assert run.attrs["wall_s"] >= run.column("evaluations", "t_s")[-2]


def test_a_server_that_is_not_asked_for_needs_a_rank_beside_the_workers(tmp_path: Path) -> None:
    line = command("outpace.algorithms.m_sync_sgd", 1, [])
    done = subprocess.run(
        line, env=environment(1), cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == "m_sync_sgd: one rank serves and the others work, so 1 rank(s) are too few\n"


def test_dropped_gradients_are_in_the_trace_and_count_nowhere(start: Callable) -> None:
    """One worker of three is 20 times slower than the others, whose gradients make the rounds."""
    flags = ["--problem", "quadratic:dim=7", "--epochs", "4", "--compute-time", "0.005"]
    job = start("m_sync_sgd", 4, *flags, "--stragglers", "fixed:rank=0,factor=20", "--m", "2")
    code, _, err = job.end()
    assert code == 0, err
    validate(job.target)
    run = Run(job.target)
    rank, samples, applied = (run.column("steps", name) for name in ("rank", "samples", "applied"))
    assert applied.sum() == 2 * 4 * 1024 // (2 * 16)
    assert 0 < (applied == 0).sum() < len(applied) / 4
    assert run.column("evaluations", "samples")[-1] == samples[applied == 1].sum() == 4 * 1024
    assert run.column("workers", "update_share")[0] == (rank[applied == 1] == 0).mean() < 0.1


def test_answer_is_the_workers_alone(start: Callable) -> None:
    """The problem adds up over its rows to compare the result with LAPACK's; a server has no rows."""
    job = start("a_psgd", 4, "--problem", "svd:samples=200,dim=10", "--servers", "2", "--epochs", "1")
    code, out, _ = job.end()
    assert code == 0
    assert "principal angle" in out
    assert Run(job.target).attrs["answer"]


@pytest.mark.long
@pytest.mark.parametrize("lost", [0, 3])
def test_a_crash_ends_the_job(start: Callable, tmp_path: Path, lost: int) -> None:
    """`kill -9` of a worker or of the server, with what was written kept: the model is the server's alone."""
    job = start("a_psgd", 4, "--time-budget", "50", "--compute-time", "0.01", "--evaluations", "200", outpace=True)
    pids = job.wait_until_running(4, 2.5)
    os.kill(pids[lost], signal.SIGKILL)
    code, _, err = job.end()
    assert code != 0
    assert f"rank {lost}: Killed, so the job ended" in err
    assert die(pids.values(), 2)
    (target,) = recover(tmp_path)
    validate(target)
    loss = Run(target).column("evaluations", "loss")
    assert len(loss) >= 2
    assert loss[-1] < loss[0]


@pytest.mark.long
def test_labels_and_shares_are_in_the_trace_and_shown(start: Callable, tmp_path: Path) -> None:
    """One worker four times slower: the others' share of the updates grows beyond their data's."""
    flags = ["--split", "labels:classes=4", "--stragglers", "fixed:rank=2,factor=4", "--compute-time", "0.02"]
    job = start("a_psgd", 4, "--epochs", "3", *flags)
    assert job.end()[0] == 0
    expected = np.stack([share.label_counts for share in shares("digits", 3, split="labels:classes=4")])
    with h5py.File(job.target) as file:
        np.testing.assert_array_equal(file["labels/samples"], expected)
        assert [scale[0].name for scale in file["labels/samples"].dims] == ["/labels/worker", "/labels/label"]
        data, updates = (file[f"workers/{name}"][()] for name in ("data_share", "update_share"))
    np.testing.assert_allclose(data, expected.sum(axis=1) / expected.sum())
    np.testing.assert_allclose(updates, [4 / 9, 4 / 9, 1 / 9], atol=0.03)
    outpace = Path(os.sys.executable).parent / "outpace"  # type: ignore[attr-defined]
    shown = subprocess.run([outpace, "show", job.target], capture_output=True, text=True, check=True).stdout
    for row in expected:
        assert " ".join(f"{count:4}" for count in row) in shown
