"""What a run expects of itself before it begins."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from harness import CheckedComm, shares
from mpi4py import MPI

from outpace.benchmarks.running.assembly import Assembly
from outpace.benchmarks.running.plan import Launch, make_plan
from outpace.benchmarks.running.storage import opened
from outpace.benchmarks.sweeps.programs import config_of


@pytest.mark.parametrize(
    ("program", "steps", "launch", "stride"),
    [
        ("d_psgd", 1050, {}, 48),
        ("d_psgd", 10, {}, 1),
        ("d_psgd", 1050, {"time_budget": 1.0}, 1),  # which of the two ends first is not known
        ("d_psgd", None, {"time_budget": 1.0}, 1),
        ("ad_psgd", None, {"time_budget": 2.1}, 96),  # milliseconds
        ("ad_psgd", 210, {"compute_time": 0.1}, 513),  # 21 s, by the gradients beforehand, into twice as many places
        ("ad_psgd", 210, {"compute_time": 0.1, "time_budget": 1.0}, 1),
    ],
)
def test_the_first_snapshots_are_as_far_apart_as_the_last_ones(
    tmp_path: Path, program: str, steps: int | None, launch: dict[str, Any], stride: int
) -> None:
    comm = CheckedComm(MPI.COMM_SELF.Dup())
    config = dataclasses.replace(config_of(program)(), dtype="float64")
    (problem,) = shares("quadratic:dim=3", 1)
    epochs = None if steps is None else steps * config.batch_size / problem.n_total
    plan = make_plan(program, config, Launch(epochs=epochs, out=tmp_path / "run.h5", **launch), 1)
    assert plan.steps(problem.n_total) == steps
    with opened(comm, plan, problem, {"dim": 3}, None) as storage:
        Assembly(comm, plan, problem, storage.snapshots, steps)
        assert storage.snapshots.stride == storage.snapshots.due == stride
        storage.close(keep=False)
    comm.Free()
