"""The table of simulated runs beside real ones, of traces whose errors are known."""

from pathlib import Path

import numpy as np
import pytest
from made_traces import write_trace
from simulated_machines import machine

from outpace.benchmarks.figures.validation import pairs
from outpace.benchmarks.studies import __main__ as studies
from outpace.benchmarks.studies import validation
from outpace.benchmarks.studies.beyond import beyond
from outpace.benchmarks.trace.run import Run
from outpace.comm import machines
from outpace.comm.errors import UserError

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
    assert "2026-11-29, a CPU, 2 cores, An MPI 1. `" in text
    assert "| AD-PSGD | 2 | none | compute | 0.05 | +4.0% | 0.35 | +4.0% | 0.025 | +4.0% |" in text
    assert "| compute: 5% | 1 | 1 | 1 | 1 |" in text
    assert "| communication: 15% | 1 | 0 | 0 | 0 |" in text


def test_the_machine_states_its_error(runs: list[Run], tmp_path: Path) -> None:
    file = tmp_path / "machine.toml"
    file.write_text(machine().to_toml())
    validation.state(file, [validation.row(*pair) for pair in pairs(runs)])
    stated = machines.read(str(file)).stated_error
    assert stated["compute"] == "step at most 4 %, in the median 4 %, 1 runs on 2 workers"
    assert stated["communication"].startswith("step at most 20 %")


def test_the_common_loss_is_one_that_both_reach(tmp_path: Path) -> None:
    far, near = (made(tmp_path / f"{low}.h5", 0.1, "none", "emulated", low) for low in (0.1, 10.0))
    target = validation.common_loss(far, near)
    assert 10.0 < target < 100.0
    assert target == validation.common_loss(near, far)
    assert far.time_to_loss(target) is not None
    assert near.time_to_loss(target) is not None


def test_a_study_in_parts() -> None:
    """Only what a study has a choice of, and no number below 1."""
    options = studies.parser().parse_args(["validation", "--networks", "none", "50mbit", "--n", "8", "16"])
    assert studies.given_of(options, validation.validation) == {"networks": ["none", "50mbit"], "n": [8, 16]}
    for words, error in (
        (["first-of-n", "--n", "8"], "--n: this study has no choice of it"),
        (["beyond", "--n", "16", "0"], "--n is 0; it must be above 0"),
        (["beyond", "--launches", "2"], "--launches: this study has no choice of it"),
    ):
        options = studies.parser().parse_args(words)
        with pytest.raises(UserError, match=error):
            studies.given_of(options, studies.STUDIES[options.study])


def test_beyond_in_parts(tmp_path: Path) -> None:
    """A second part adds to the table of the first one, whose traces stay as they are."""
    beyond(tmp_path, ["allreduce_sgd"], [2], ["one slow"])
    (trace,) = tmp_path.glob("*.h5")
    first = trace.stat().st_mtime_ns
    beyond(tmp_path, ["allreduce_sgd", "powersgd"], [2, 4], ["one slow"])
    assert trace.stat().st_mtime_ns == first
    lines = (tmp_path / "beyond.md").read_text().splitlines()
    assert "## One slow" in lines
    (row,) = (line for line in lines if line.startswith("| AllReduce-SGD |"))
    rate = float(row.split("|")[2].split(",")[0])
    ring_s = 102e6 * 8 / 1e10 * 1538 / 1448  # of two workers: half of the model, twice
    assert rate == pytest.approx(2 / (1.0 + ring_s), rel=0.02)
    assert {path.suffix for path in tmp_path.iterdir()} == {".h5", ".md", ".png", ".toml"}
