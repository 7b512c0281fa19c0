"""What the traces of SVRG and Katyusha X say: effort as the paper counts it, constants, the answer's check."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from harness import shares
from jobs import Job
from reference.svrg import work

from outpace.algorithms import svrg
from outpace.benchmarks.trace import inspection
from outpace.benchmarks.trace.run import Run

Start = Callable[..., Job]


def test_effort_is_counted_epoch_by_epoch(start: Start) -> None:
    """Gradients and rounds at every evaluation follow from the lengths of the epochs, which the seed tells."""
    flags = ["--problem", "pca:samples=300,dim=5,gap=0.01", "--batch-size", "20", "--epochs", "36", "--seed", "4"]
    job = start("svrg", 2, *flags)
    assert job.end()[0] == 0
    inspection.validate(job.target)
    run, cfg = Run(job.target), svrg.Config(batch_size=20, seed=4)
    assert len(run.column("evaluations", "t_s")) == 13  # 36 passes of 3 an epoch, every one evaluated, and the start
    assert len(run.column("steps", "rank")) == 2 * 12
    rounds, samples = np.array([work(cfg, 300, 2, k) for k in range(13)]).T
    np.testing.assert_array_equal(run.column("evaluations", "rounds"), rounds)
    np.testing.assert_array_equal(run.column("evaluations", "samples"), samples)
    np.testing.assert_allclose(run.column("evaluations", "gradients"), samples / 300)
    # Of two ranks each sends half of 5 float64 numbers twice; and a byte now and then to agree on the end.
    nbytes = run.column("evaluations", "nbytes")
    assert nbytes[-1] == run.column("traffic", "nbytes").sum()
    np.testing.assert_allclose(nbytes, rounds * 2 * 5 * 8, atol=30)
    (problem,) = shares("pca:samples=300,dim=5,gap=0.01", 1, seed=4)
    expected = svrg.Config(batch_size=20).constants(problem)
    constants = json.loads(run.attrs["constants"])
    assert constants == {"m": 15, "L": pytest.approx(problem.L), "step_size": pytest.approx(expected.step_size)}
    assert run.column("evaluations", "suboptimality")[0] == pytest.approx(-problem.f_star)


def test_composite_runs_say_how_far_they_are(start: Start) -> None:
    flags = ["--problem", "logistic:samples=200,dim=6,weight=0.02", "--prox", "l1:weight=0.02", "--epochs", "240"]
    job = start("katyusha_x", 2, *flags)
    code, said, _ = job.end()
    assert code == 0
    assert "relative error" not in said  # of the minimum without psi
    run = Run(job.target)
    x = run.column("model", "x_mean")
    assert run.column("evaluations", "prox_residual")[-1] < 1e-8
    assert not run.has("evaluations", "suboptimality")
    (problem,) = shares("logistic:samples=200,dim=6,weight=0.02", 1)
    assert run.final_loss() == pytest.approx(problem.loss(x) + 0.02 * np.abs(x).sum(), abs=1e-14)


def test_an_application_prints_its_check(start: Start) -> None:
    problem = "svd:samples=200,dim=6,decay=3,rank=2,gap=0.05"
    flags = ["--application", "svd", "--problem", problem, "--stage", "5", "--epochs", "9000"]
    job = start("katyusha_x", 2, *flags)
    code, said, _ = job.end()
    assert code == 0
    assert "principal angle" in said
    assert "complete" in said
    answer = json.loads(Run(job.target).attrs["answer"])
    assert answer["principal angle"] < 1e-6
    assert answer["relative eigenvalue error"] < 1e-6
    assert Run(job.target).column("evaluations", "suboptimality")[-1] < 1e-10
    assert len(Run(job.target).column("steps", "rank")) < 3000  # found, and ended, long before the budget
