"""Gradients that a server dropped: in the trace, and counted nowhere."""

from pathlib import Path

import numpy as np
import pytest
from made_traces import written

from outpace.benchmarks.trace import archive, export
from outpace.benchmarks.trace.archive import Parts
from outpace.benchmarks.trace.parts import Part
from outpace.benchmarks.trace.recorder import APPLIED
from outpace.benchmarks.trace.run import Run

ATTRIBUTES = {"n_workers": 2, "n_total": 8, "n_samples": [4, 4], "hostnames": ["a"] * 3, "claim_class": "emulated"}
ATTRIBUTES |= {"started_utc": "", "config_id": "0", "algorithm": "m_sync_sgd", "config": "{}", "problem": "digits"}
ATTRIBUTES |= {"split": "iid", "stragglers": "none", "seed": 0}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Worker 0 computes three gradients, of which the server drops the second; worker 1 four, the last one unlogged,
    the third dropped after the run's last update."""
    target, about = tmp_path / "run.h5", {"per_step": False, "labels": [], "attributes": ATTRIBUTES}
    for rank, steps in enumerate(([1.0, 2.0, 3.0], [1.5, 2.5, 3.5, 4.5])):
        written(target, rank, [(np.nan, t_s) for t_s in steps], ranks=3, started_s=0.0, **about)
    part = Part(target, 2, {"rank": 2, "ranks": 3, "started_s": 0.0, **about})
    applied = [(0, 1.1, 0), (1, 1.6, 1), (1, 2.6, 2), (0, 3.1, 4)]
    part.append("applied", np.array(applied, dtype=APPLIED).tobytes())
    part.append("dropped", np.array([(0, 2.1, 3), (1, 4.0, 9)], dtype=APPLIED).tobytes())
    part.close()
    return target


def merged(target: Path) -> Run:
    losses = {name: np.array([2.0, 1.5, 1.0]) for name in ("loss", "gradient_norm", "consensus")}
    archive.merge(Parts.read(target), target, {"status": "complete"}, np.array([2200]), losses, np.zeros(1), ended=True)
    return Run(target)


def test_each_gradient_has_what_became_of_it(target: Path) -> None:
    """In the order of the server's log, in which each worker's gradients stand in the order of its steps."""
    run = merged(target)
    columns = [run.column("steps", name).tolist() for name in ("rank", "step", "t_s", "staleness", "applied")]
    assert list(zip(*columns, strict=True)) == [
        (0, 0, 1.1, 0, 1),
        (1, 0, 1.6, 1, 1),
        (0, 1, 2.1, 3, 0),
        (1, 1, 2.6, 2, 1),
        (0, 2, 3.1, 4, 1),
        (1, 2, 4.0, 9, 0),
    ]


def test_what_was_dropped_counts_nowhere(target: Path) -> None:
    """Four gradients of 4 samples in 3.1 s. At 2.2 s two had been applied."""
    run = merged(target)
    assert run.column("evaluations", "t_s").tolist() == [0.0, 2.2, 3.1]
    assert run.column("evaluations", "samples").tolist() == [0, 8, 16]
    assert run.column("workers", "update_share").tolist() == [0.5, 0.5]
    assert run.samples_per_s() == pytest.approx(16 / 3.1)
    assert run.steps_per_s() == pytest.approx(4 / 3.1)
    row = export.row(run, None)
    assert (row["gradients"], row["gradients_dropped"], row["samples"]) == (6, 2, 16)
    assert (row["staleness_mean"], row["staleness_max"]) == (7 / 4, 4)


def test_a_mean_over_workers_weighs_them_alike() -> None:
    """Three gradients of worker 0 and one of worker 1: weights as the gradients, but in a mean over workers."""
    steps = {"rank": np.array([0, 0, 1, 0])}
    assert archive.shares(steps, [4, 12])["update_share"].tolist() == [0.75, 0.25]
    alike = archive.shares(steps, [4, 12], alike=True)
    assert {name: column.tolist() for name, column in alike.items()} == {
        "data_share": [0.25, 0.75],
        "update_share": [0.5, 0.5],
    }


def test_a_run_without_drops_has_no_such_column(target: Path) -> None:
    target.with_name(f"{target.name}.part-2").unlink()
    part = Part(target, 2, {"rank": 2, "ranks": 3, "started_s": 0.0, "labels": []})
    part.append("applied", np.array([(0, 1.1, 0), (1, 1.6, 1)], dtype=APPLIED).tobytes())
    part.close()
    run = merged(target)
    assert not run.has("steps", "applied")
    assert run.applied("rank").tolist() == [0, 1]
