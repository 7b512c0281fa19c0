"""The merge of the parts into one trace."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray
from made_traces import written

from outpace.benchmarks.trace import archive, schema
from outpace.benchmarks.trace.archive import Parts, evaluation_times
from outpace.benchmarks.trace.parts import Part
from outpace.benchmarks.trace.recorder import STEPS
from outpace.benchmarks.trace.run import Run
from outpace.comm.clock import Offset
from outpace.comm.errors import UserError

GOLDEN = Path(__file__).parents[2] / "golden" / "trace-v1.h5"


def test_staleness_counts_gradients_applied_between(tmp_path: Path) -> None:
    """Worked by hand: worker 0 applies at 1, 4, 9; worker 1 reads at 0.5 and applies at 5 (1 and 4 lie between)."""
    target = tmp_path / "run.h5"
    for rank, steps in enumerate([[(0.0, 1.0), (1.0, 4.0), (4.5, 9.0)], [(0.5, 5.0), (5.0, 8.0)]]):
        written(target, rank, steps, ranks=2, started_s=0.0)
    columns = Parts.read(target).steps()
    assert columns["t_s"].tolist() == [1.0, 4.0, 5.0, 8.0, 9.0]
    assert columns["rank"].tolist() == [0, 0, 1, 1, 0]
    assert columns["staleness"].tolist() == [0, 0, 2, 0, 2]


def test_times_are_on_the_clock_of_rank_0(tmp_path: Path) -> None:
    """Rank 1's clock is 100 s ahead and drifts by one second in a thousand."""
    target = tmp_path / "run.h5"
    written(target, 0, [(np.nan, 11.0)], ranks=2, started_s=10.0)
    part = Part(target, 1, {"rank": 1})
    part.append_offset(Offset(110.0, -100.0, 1e-5))
    row = np.zeros(1, dtype=STEPS)
    row[0] = (0, 610.0, np.nan, 0, 0, 0, 0, 1)
    part.append("steps", row.tobytes())
    part.append_offset(Offset(1110.0, -101.0, 3e-5))
    part.close()
    parts = Parts.read(target)
    assert parts.steps()["t_s"].tolist() == pytest.approx([1.0, 610 - 100.5 - 10])
    clock = parts.clock()
    assert clock["drift"].tolist() == pytest.approx([0.0, -1e-3])
    assert clock["uncertainty_s"].tolist() == [0.0, 3e-5]


def test_the_network_is_that_of_the_last_start_that_measured_it(tmp_path: Path) -> None:
    """Rank 1 was killed before its second start had measured; each rank has its pairs with higher ones."""
    target = tmp_path / "run.h5"
    for rank in range(3):
        part = Part(target, rank, {"rank": rank, "ranks": 3})
        part.append_network([(b, 1e-5, 1e6) for b in range(rank + 1, 3)])
        part.append("json", json.dumps({"rank": rank, "ranks": 3}).encode())
        if rank == 0:
            part.append_network([(2, 3e-5, 3e6), (1, 2e-5, 2e6)])
        part.close()
    network = {name: column.tolist() for name, column in Parts.read(target).network().items()}
    assert network == {"a": [0, 0, 1], "b": [2, 1, 2], "rtt_s": [3e-5, 2e-5, 1e-5], "bytes_per_s": [3e6, 2e6, 1e6]}


def test_changes_of_links_are_on_the_axis_of_the_run(tmp_path: Path) -> None:
    """Two starts: the second went on 5 s into the run, at 1000 on its clock."""
    target = tmp_path / "run.h5"
    part = Part(target, 0, {"rank": 0, "ranks": 1, "started_s": 10.0})
    part.append_links([(1, 12.5, 1e5), (0, 12.0, 2e5)])
    part.append("json", json.dumps({"rank": 0, "ranks": 1, "started_s": 995.0}).encode())
    part.append_links([(1, 1000.5, 3e5)])
    part.close()
    links = {name: column.tolist() for name, column in Parts.read(target).links().items()}
    assert links == {"rank": [0, 1, 1], "t_s": [2.0, 2.5, 5.5], "bytes_per_s": [2e5, 1e5, 3e5]}


def test_evaluation_times() -> None:
    """Synchronous: when the last rank had made that step. Asynchronous: that moment, with what was used by then."""
    steps = {
        "step": np.array([0, 0, 1, 1]),
        "t_s": np.array([0.010, 0.012, 0.020, 0.025]),
        "samples": np.array([4, 4, 4, 4]),
    }
    t_s, samples = evaluation_times(steps, np.array([1, 2]), per_step=True, n=2)
    assert t_s.tolist() == [0.012, 0.025]
    assert samples.tolist() == [8, 16]
    t_s, samples = evaluation_times(steps, np.array([5, 12, 24]), per_step=False, n=2)
    assert t_s.tolist() == pytest.approx([0.005, 0.012, 0.024])
    assert samples.tolist() == [0, 8, 12]


def test_missing_part_is_named(tmp_path: Path) -> None:
    target = tmp_path / "run.h5"
    written(target, 0, [], ranks=2)
    with pytest.raises(UserError, match="part-1: No such file"):
        Parts.read(target)


def test_attributes_of_thousands_of_ranks(tmp_path: Path) -> None:
    target, hosts = tmp_path / "run.h5", [f"node{rank:05}.cluster.example" for rank in range(5000)]
    attributes = {"n_workers": 1, "n_total": 4, "n_samples": [4], "hostnames": hosts}
    attributes |= {"claim_class": "measured", "started_utc": "", "config_id": "0"}
    written(target, 0, [(np.nan, 1.0)], ranks=1, started_s=0.0, per_step=True, labels=[], attributes=attributes)
    losses = {name: np.zeros(1) for name in ("loss", "gradient_norm", "consensus")}
    archive.merge(Parts.read(target), target, {}, np.empty(0, dtype=np.int64), losses, np.zeros(1), ended=False)
    with h5py.File(target) as file:
        assert list(file.attrs["hostnames"]) == hosts


def test_what_was_changed_later_is_found(tmp_path: Path) -> None:
    golden, target = Run(GOLDEN), tmp_path / "run.h5"
    groups = {
        group: {name: golden.column(group, name) for name in columns if golden.has(group, name)}
        for group, columns in schema.GROUPS.items()
    }
    archive.write(target, golden.attrs, {group: columns for group, columns in groups.items() if columns}, {})
    np.testing.assert_array_equal(Run(target).column("evaluations", "loss"), golden.column("evaluations", "loss"))
    with h5py.File(target, "r+") as file:
        file["evaluations/loss"][1] += 1e-9
    with pytest.raises(UserError, match="damaged: /evaluations/loss does not fit its checksum"):
        Run(target).column("evaluations", "loss")
    with h5py.File(target, "r+") as file:
        file.attrs["seed"] = golden.attrs["seed"] + 1
    with pytest.raises(UserError, match="damaged: its attributes do not fit their checksum"):
        Run(target)


def test_row_numbers_take_no_room(tmp_path: Path) -> None:
    """A file of nothing but rows is as large as its columns, and xarray has its dimensions by their names."""
    target, n = tmp_path / "run.h5", 100_000
    attributes = {"n_workers": 1, "n_total": 4, "n_samples": [4], "hostnames": ["a"]}
    attributes |= {"claim_class": "measured", "started_utc": "", "config_id": "0"}
    steps = [(np.nan, 1.0 + k) for k in range(n)]
    written(target, 0, steps, ranks=1, started_s=0.0, per_step=True, labels=[], attributes=attributes)
    losses = {name: np.zeros(1) for name in ("loss", "gradient_norm", "consensus")}
    archive.merge(Parts.read(target), target, {}, np.empty(0, dtype=np.int64), losses, np.zeros(n), ended=False)
    with h5py.File(target) as file:
        stored = [
            dataset.id.get_storage_size()
            for group in ("steps", "model")
            for name, dataset in file[group].items()
            if name not in ("row", "coordinate")
        ]
        assert [scale.shape for scale in file["steps/t_s"].dims[0].values()] == [(n,)]
    assert target.stat().st_size < 1.2 * sum(stored) + 2**16
    for group, column, scale in (("steps", "t_s", "row"), ("model", "x_mean", "coordinate")):
        with xarray.open_dataset(target, group=group, engine="h5netcdf") as data:
            assert data[column].dims == (scale,)
            assert scale not in data.variables
