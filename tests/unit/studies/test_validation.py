"""The table of simulated runs beside real ones, of traces whose errors are known."""

from pathlib import Path

import numpy as np
import pytest
from made_traces import write_trace
from simulated_machines import machine

from outpace.benchmarks.figures.validation import pairs
from outpace.benchmarks.studies import validation
from outpace.benchmarks.trace.run import Run
from outpace.comm import machines

WHERE = {"cpu_model": "a CPU", "cores": 2, "mpi_library": "An MPI   1", "started_utc": "2026-11-29T10:00:00+00:00"}


def made(path: Path, step: float, links: str, kind: str, lowest: float = 1.0) -> Run:
    """Two workers, ten steps each, whose loss falls from 100 to the lowest with every step by the same factor."""
    t_s = step * np.arange(1, 11)
    steps = {"rank": np.tile([0, 1], 10), "t_s": np.repeat(t_s, 2), "samples": np.ones(20)}
    loss = 100 * (lowest / 100) ** (np.arange(11) / 10)
    groups = {"steps": steps, "evaluations": {"t_s": [0, *t_s], "loss": loss}}
    about = WHERE | {"n_workers": 2, "links": links, "claim_class": kind}
    return Run(write_trace(path, groups, {"compute_time": 0.05}, **about))


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """Without links 4 % too slow, behind them 20 %."""
    settings = [("none", "emulated", 0.05), ("none", "simulated", 0.052)]
    settings += [("all:rate=20mbit", "emulated", 0.2), ("all:rate=20mbit", "simulated", 0.24)]
    return [made(tmp_path / f"{links[:3]}-{kind}.h5", step, links, kind) for links, kind, step in settings]


def test_errors_of_step_loss_and_whole_run(runs: list[Run]) -> None:
    rows = [validation.row(*pair) for pair in pairs(runs)]
    assert [(row.links, row.bound) for row in rows] == [("none", "compute"), ("all:rate=20mbit", "communication")]
    for row, error in zip(rows, (0.04, 0.2), strict=True):
        for real, predicted in (row.step, row.loss, row.gradient):
            assert predicted / real - 1 == pytest.approx(error)
    assert rows[0].gradient[0] == pytest.approx(0.025)


def test_the_table(runs: list[Run]) -> None:
    text = validation.table([validation.row(*pair) for pair in pairs(runs)], runs[0])
    assert "2026-11-29, a CPU, 2 cores, An MPI 1. 2 workers" in text
    assert "| AD-PSGD | none | compute | 0.05 | +4.0% | 0.35 | +4.0% | 0.025 | +4.0% |" in text
    assert "| compute: 5% | 1 | 1 | 1 | 1 |" in text
    assert "| communication: 15% | 1 | 0 | 0 | 0 |" in text


def test_the_machine_states_its_error(runs: list[Run], tmp_path: Path) -> None:
    file = tmp_path / "machine.toml"
    file.write_text(machine().to_toml())
    validation.state(file, [validation.row(*pair) for pair in pairs(runs)], 2)
    stated = machines.read(str(file)).stated_error
    assert stated["compute"] == "step at most 4 %, in the median 4 %, 1 programs on 2 workers"
    assert stated["communication"].startswith("step at most 20 %")


def test_the_common_loss_is_one_that_both_reach(tmp_path: Path) -> None:
    far, near = (made(tmp_path / f"{low}.h5", 0.1, "none", "emulated", low) for low in (0.1, 10.0))
    target = validation.common_loss(far, near)
    assert 10.0 < target < 100.0
    assert target == validation.common_loss(near, far)
    assert far.time_to_loss(target) is not None
    assert near.time_to_loss(target) is not None
