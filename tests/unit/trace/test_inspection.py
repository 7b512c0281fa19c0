"""What `outpace show` prints, wherever it is printed, and a damaged trace."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from made_traces import write_group

from outpace.benchmarks.trace.inspection import show, summary, validate
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

GOLDEN = Path(__file__).parents[2] / "golden" / "trace-v1.h5"


def shown(path: Path) -> dict[str, str]:
    """What `outpace show` tells, by its rows' names."""
    names, texts = summary(Run(path)).columns
    return dict(zip(map(str, names.cells), map(str, texts.cells), strict=True))


def test_columns_that_came_later_are_shown_where_they_are(tmp_path: Path) -> None:
    new = tmp_path / "new.h5"
    shutil.copy(GOLDEN, new)
    with h5py.File(new, "a") as file:
        rows = len(file["evaluations/loss"])
        for name, first in (("held_out_loss", 5), ("gradient_norm_1", 7)):
            file[f"evaluations/{name}"] = np.linspace(first, 0.25, rows)
    validate(GOLDEN)
    assert shown(new).keys() - shown(GOLDEN).keys() == {"held_out_loss", "gradient_norm_1"}
    assert shown(new)["held_out_loss"] == f"5 -> 0.25 ({rows} evaluations)"
    assert shown(new)["gradient_norm_1"] == f"7 -> 0.25 ({rows} evaluations)"


def test_dropped_gradients_are_told_and_left_out_of_the_rate(tmp_path: Path) -> None:
    """Of the golden trace's 16 gradients every second one, the last one kept."""
    path = tmp_path / "dropped.h5"
    shutil.copy(GOLDEN, path)
    with h5py.File(path, "a") as file:
        column = file["steps"].create_dataset("applied", data=np.arange(16, dtype="i1") % 2)
        column.attrs["units"] = "1"
        column.dims[0].attach_scale(file["steps/row"])
    validate(path)
    before, after = shown(GOLDEN), shown(path)
    assert "dropped" not in before
    assert after["dropped"] == "8 gradients of 16; samples/s and staleness are of the others"
    assert float(after["samples/s"]) == pytest.approx(float(before["samples/s"]) / 2, abs=0.1)
    with h5py.File(path, "a") as file:
        file["steps/applied"][3] = 2
    with pytest.raises(UserError, match="applied has the number 2; it must be at least 0 and at most 1"):
        validate(path)


def test_time_is_told_by_rank_where_ranks_differ() -> None:
    """Compute by hand from /steps: 31.86 and 31.76 ms of 34.41; rank 1 waited 0.92 ms."""
    compute, injected, wait, exchange, idle = shown(GOLDEN)["time by rank, %"].splitlines()
    assert (compute, injected, wait) == ("compute  92.5 each", "injected 0.0 each", "wait     0.0 2.7")
    assert exchange.startswith("exchange ")
    assert idle.startswith("idle ")


def test_links_asked_for_and_what_there_was(tmp_path: Path) -> None:
    path = tmp_path / "links.h5"
    shutil.copy(GOLDEN, path)
    changes = {
        "rank": [0, 1, 0, 1, 0],
        "t_s": [0, 0, 0.1, 0.2, 0.3],
        "bytes_per_s": [1.25e8, 1.25e8, 1.25e7, 1.25e8, 1.25e8],
    }
    with h5py.File(path, "a") as file:
        file.attrs["links"] = "shared:rate=1gbit"
        write_group(file, "links", changes)
        write_group(file, "network", {"a": [0], "b": [1], "rtt_s": [2.5e-5], "bytes_per_s": [1.18e8]})
    validate(path)
    assert shown(path)["network"] == "round trip 25 us\neach way 944 Mbit/s"
    assert shown(path)["links"] == "shared:rate=1gbit"
    assert shown(path)["link changes"] == "2, between 100 Mbit/s and 1 Gbit/s"
    assert shown(GOLDEN)["links"] == "none"
    assert not {"network", "link changes"} & shown(GOLDEN).keys()


def test_steps_of_a_slow_rank_are_not_lost_among_those_of_the_others(tmp_path: Path) -> None:
    """One step in 31 is delayed: the 95 % quantile of all of them is 0."""
    path = tmp_path / "slow.h5"
    shutil.copy(GOLDEN, path)
    slow = np.arange(62) % 31 == 0
    with h5py.File(path, "a") as file:
        for name, column in list(file["steps"].items()):
            values = {"rank": slow, "injected_s": 0.045 * slow}.get(name, np.ones(len(slow)))
            del file["steps"][name]
            file["steps"][name] = values.astype(column.dtype)
    assert shown(path)["injected, s"] == "medians by rank 0 0.045; of all p5 0, p95 0"
    assert shown(path)["compute, s"] == "medians by rank 1 each; of all p5 1, p95 1"


def test_damage_anywhere_is_a_user_error(tmp_path: Path) -> None:
    """A byte turned over, which may be one that nothing depends on; HDF5 raises this and that for others."""
    whole, path = GOLDEN.read_bytes(), tmp_path / "damaged.h5"
    refused = 0
    for position in np.random.default_rng(0).choice(len(whole), 60, replace=False):
        content = bytearray(whole)
        content[position] ^= 0xFF
        path.write_bytes(content)
        try:
            validate(path)
            summary(Run(path))
        except UserError:
            refused += 1
    assert refused


def named(path: Path, title: str) -> Path:
    """A trace of a run of this name."""
    shutil.copy(GOLDEN, path)
    with h5py.File(path, "a") as file:
        file.attrs["title"] = title
    return path


@pytest.mark.parametrize("name", ["lr[0.1]", "[i]slanted", "[link=x]", "half[", ":tada:", "[dim]and[:eyes:]"])
def test_names_are_shown_letter_by_letter(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert show([named(tmp_path / f"{name}.h5", f"{name} [/u]")]) == 0
    shown = capsys.readouterr().out
    assert f"{name}.h5" in shown.replace("\n", "")
    assert f"{name} [/u] (ad_psgd)" in shown
    assert show([tmp_path / f"{name}.none"]) == 1
    assert f"{name}.none" in capsys.readouterr().err


@pytest.mark.parametrize("columns", ["0", "2", "19"])
def test_a_summary_can_be_read_in_no_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert show([GOLDEN]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert any(line.startswith("program ") and "(ad_psgd)" in line for line in shown)


@pytest.mark.parametrize(("encoding", "written"), [("latin-1", b"X\\u02b7 \xb2"), ("cp1252:strict", b"X\\u02b7 \xb2")])
def test_an_encoding_without_the_letters_of_a_name(tmp_path: Path, encoding: str, written: bytes) -> None:
    trace = named(tmp_path / "a.h5", "X\u02b7 \u00b2")
    line = [sys.executable, "-m", "outpace.benchmarks.command", "show", trace]
    done = subprocess.run(line, env=os.environ | {"PYTHONIOENCODING": encoding}, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert written in done.stdout
