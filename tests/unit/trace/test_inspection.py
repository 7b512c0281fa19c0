"""What `outpace show` prints, wherever it is printed, and a damaged trace."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from outpace.benchmarks.trace.inspection import show, summary, validate
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

GOLDEN = Path(__file__).parents[2] / "golden" / "trace-v1.h5"


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
