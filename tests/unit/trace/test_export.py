"""The table of runs, read back by pandas and pyarrow as a user would."""

import json
import math
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas
import pyarrow.parquet
import pytest
from made_traces import write_group

from outpace.benchmarks.trace.common_loss import common_loss
from outpace.benchmarks.trace.export import write_csv, write_parquet
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

GOLDEN = Path(__file__).parents[2] / "golden" / "trace-v1.h5"


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """One run, and the same with another flag, another value of one, and no step."""
    first, second = tmp_path / "a.h5", tmp_path / "b.h5"
    for path in (first, second):
        shutil.copy(GOLDEN, path)
    with h5py.File(second, "a") as file:
        config = json.loads(file.attrs["config"])
        file.attrs["config"] = json.dumps(config | {"servers": 2, "epochs": "no number"})
        file.attrs["stragglers"] = "pareto:alpha=1.5"
        file.attrs["links"] = "all:rate=1gbit"
        write_group(file, "network", {"a": [0], "b": [1], "rtt_s": [2e-5], "bytes_per_s": [1.2e8]})
        file["evaluations/held_out_loss"] = np.arange(len(file["evaluations/loss"]), 0, -1.0)
        for name, column in file["steps"].items():
            if name != "row":
                kept = dict(column.attrs)
                del file["steps"][name]
                file["steps"].create_dataset(name, shape=(0,), dtype=column.dtype).attrs.update(
                    {key: kept[key] for key in ("units", "long_name")}
                )
    return [first, second]


def check(table: pandas.DataFrame, runs: list[Path]) -> None:
    run = Run(runs[0])
    assert list(table["file"]) == [str(path) for path in runs]
    first, second = (table.iloc[k] for k in (0, 1))
    assert first["algorithm"] == "ad_psgd"
    assert first["n_workers"] == first["n_ranks"] == 2
    assert first["samples_per_s"] == pytest.approx(run.samples_per_s())
    assert first["epoch_s"] == pytest.approx(run.epoch_time())
    assert first["loss_final"] == pytest.approx(run.final_loss())
    assert first["loss_lowest"] == pytest.approx(run.column("evaluations", "loss").min())
    assert math.isnan(first["held_out_loss_final"])  # made before it was recorded
    assert second["held_out_loss_final"] == 1
    assert first["staleness_mean"] == pytest.approx(run.column("steps", "staleness").mean())
    assert first["gradients"] == len(run.column("steps", "step")) == 16
    assert second["gradients"] == 0
    assert math.isnan(second["samples_per_s"])
    assert first["links"] == "none"
    assert math.isnan(first["network_rtt_s"])
    assert second["links"] == "all:rate=1gbit"
    assert (second["network_rtt_s"], second["network_bytes_per_s"]) == (2e-5, 1.2e8)
    assert first["slow_factor"] == 1
    assert math.isnan(second["slow_factor"])
    assert math.isnan(first["flag_servers"])
    assert second["flag_servers"] == 2
    assert str(first["flag_problem"]).startswith("quadratic:dim=")
    assert second["flag_epochs"] == "no number"
    assert not {"config", "hostnames"} & set(table.columns)


def test_csv(tmp_path: Path, runs: list[Path]) -> None:
    assert write_csv(runs, tmp_path / "t.csv") == 2
    check(pandas.read_csv(tmp_path / "t.csv"), runs)


def test_parquet(tmp_path: Path, runs: list[Path]) -> None:
    assert write_parquet(runs, tmp_path / "t.parquet") == 2
    check(pandas.read_parquet(tmp_path / "t.parquet"), runs)
    schema = pyarrow.parquet.read_schema(tmp_path / "t.parquet")
    assert str(schema.field("loss_final").type) == "double"
    assert str(schema.field("seed").type) == "int64"
    assert str(schema.field("flag_epochs").type) == "string"  # a number in one run, a text in the other


def test_the_time_to_a_loss(tmp_path: Path, runs: list[Path]) -> None:
    """To the one given; else to one that nine of ten runs of the same problem reach."""
    run = Run(runs[0])
    given = float(run.column("evaluations", "loss").mean())
    assert write_csv(runs, tmp_path / "t.csv", loss=given) == 2
    first = pandas.read_csv(tmp_path / "t.csv").iloc[0]
    assert first["loss_target"] == given
    assert first["time_to_loss_s"] == pytest.approx(run.time_to_loss(given))
    write_csv(runs, tmp_path / "t.csv")
    table = pandas.read_csv(tmp_path / "t.csv")
    assert set(table["loss_target"]) == {common_loss([Run(path) for path in runs])}
    write_csv(runs, tmp_path / "t.csv", loss=-1.0)
    assert pandas.read_csv(tmp_path / "t.csv")["time_to_loss_s"].isna().all()


def test_some_of_the_traces(tmp_path: Path, runs: list[Path]) -> None:
    assert write_csv(runs, tmp_path / "t.csv", ["servers=2"]) == 1
    assert list(pandas.read_csv(tmp_path / "t.csv")["file"]) == [str(runs[1])]


def test_a_table_is_whole_or_not_written(tmp_path: Path, runs: list[Path]) -> None:
    (tmp_path / "t.csv").write_text("old")
    with pytest.raises(UserError, match="no such file"):
        write_csv([*runs, tmp_path / "nowhere.h5"], tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "old"
    with pytest.raises(UserError, match="cannot be written: No such file or directory"):
        write_csv(runs, tmp_path / "nowhere" / "t.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5", "t.csv"]
