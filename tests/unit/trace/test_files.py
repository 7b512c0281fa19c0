"""Outputs that users name: what is not a plain file of theirs to replace stays what it is."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from outpace.benchmarks import figures
from outpace.benchmarks.command import main
from outpace.benchmarks.trace.export import write_csv, write_parquet
from outpace.benchmarks.trace.files import output, whole
from outpace.comm.errors import UserError

GOLDEN = Path(__file__).parents[2] / "golden" / "trace-v1.h5"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copy(GOLDEN, tmp_path / "run.h5"))


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("there", [True, False])
def test_the_file_behind_links_is_written(tmp_path: Path, run: Path, there: bool) -> None:
    (tmp_path / "far").mkdir()
    table = tmp_path / "far" / "table.csv"
    if there:
        table.write_text("old")
    (tmp_path / "far" / "inner.csv").symlink_to("table.csv")
    link = tmp_path / "link.csv"
    link.symlink_to("far/inner.csv")
    write_csv([run], link)
    assert os.readlink(link) == "far/inner.csv"
    assert files_in(tmp_path / "far") == ["inner.csv", "table.csv"]
    assert table.read_text().startswith("file,")
    assert not table.is_symlink()


def test_a_figure_keeps_a_link(tmp_path: Path, run: Path) -> None:
    link = tmp_path / "paper.svg"
    link.symlink_to("drawn.svg")
    figures.draw("staleness", [run], link)
    assert link.is_symlink()
    assert "<svg" in (tmp_path / "drawn.svg").read_text()


def test_a_link_to_itself(tmp_path: Path, run: Path) -> None:
    link = tmp_path / "a.csv"
    link.symlink_to("a.csv")
    with pytest.raises(UserError, match=r"a\.csv: cannot be written: Too many levels of symbolic links"):
        write_csv([run], link)
    assert link.is_symlink()


@pytest.mark.parametrize("kind", ["csv", "parquet", "pdf", "png"])
def test_a_pipe_gets_the_whole_output(tmp_path: Path, run: Path, kind: str) -> None:
    """As in `outpace export ... --csv >(column -t -s,)`."""
    pipe, plain = tmp_path / f"pipe.{kind}", tmp_path / f"plain.{kind}"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    try:
        for out in (pipe, plain):
            if kind == "csv":
                write_csv([run], out)
            elif kind == "parquet":
                write_parquet([run], out)
            else:
                figures.draw("staleness", [run], out)
        got, _ = reader.communicate(timeout=20)
    finally:
        reader.kill()
    assert pipe.is_fifo()
    assert files_in(tmp_path) == sorted([pipe.name, plain.name, run.name])
    assert len(got) > 100
    if kind != "pdf":  # which holds the time
        assert got == plain.read_bytes()


def test_a_standard_stream(tmp_path: Path, run: Path) -> None:
    line = [sys.executable, "-m", "outpace.benchmarks.command", "export", run, "--csv", "/dev/stderr"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("file,")
    assert files_in(tmp_path) == [run.name]


def test_a_device(tmp_path: Path, run: Path) -> None:
    full = tmp_path / "full"
    try:
        os.mknod(full, 0o600 | stat.S_IFCHR, os.makedev(1, 7))  # a second /dev/full, which a failure may replace
    except PermissionError:
        pytest.skip("makes a device, which needs root")
    with pytest.raises(UserError, match="full: cannot be written: No space left on device"):
        write_csv([run], full)
    assert full.is_char_device()
    assert files_in(tmp_path) == ["full", run.name]


def test_an_error_gives_a_pipe_nothing(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)

    def fail() -> None:
        with output(pipe) as file:  # nobody reads: opening the pipe would wait for ever
            file.write(b"a half")
            raise UserError("the rest is missing")

    with pytest.raises(UserError, match="the rest is missing"):
        fail()


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("old")

    def fail() -> None:
        with output(table) as file:
            file.write(b"a half")
            file.flush()
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"table\.csv: cannot be written: No space left on device$"):
        fail()
    assert table.read_text() == "old"
    assert files_in(tmp_path) == ["table.csv"]


def test_a_file_that_appears_meanwhile_stays(tmp_path: Path) -> None:
    target = tmp_path / "run.h5"

    def write() -> None:
        with whole(target, replace=False) as file:
            file.write(b"mine")
            target.write_text("another's")

    with pytest.raises(FileExistsError):
        write()
    assert target.read_text() == "another's"
    assert files_in(tmp_path) == ["run.h5"]


def test_a_folder(tmp_path: Path, run: Path) -> None:
    with pytest.raises(UserError, match="cannot be written: Is a directory"):
        write_csv([run], tmp_path)


@pytest.mark.parametrize("by", ["name", "link"])
@pytest.mark.parametrize(
    "line", [["--csv", "OUT", "b.h5"], ["b.h5", "--parquet", "OUT"], ["b.h5", "OUT", "--csv", "OUT"]]
)
def test_a_trace_is_no_output(
    tmp_path: Path,
    run: Path,
    line: list[str],
    by: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(run, "b.h5")
    if by == "link":
        Path("link").symlink_to("run.h5")
    out = "link" if by == "link" else "run.h5"
    before = files_in(tmp_path)
    assert main(["export", *(out if word == "OUT" else word for word in line)]) == 2
    assert f"{out} is a trace, which no table or figure replaces; name another file" in capsys.readouterr().err
    assert run.read_bytes() == GOLDEN.read_bytes()
    assert files_in(tmp_path) == before


def test_a_figure_does_not_replace_a_trace_whatever_its_suffix(tmp_path: Path, run: Path) -> None:
    other = Path(shutil.copy(run, tmp_path / "trace.png"))
    with pytest.raises(UserError, match=r"trace\.png is a trace"):
        figures.draw("staleness", [run], other)
    assert other.read_bytes() == GOLDEN.read_bytes()
