"""C compiled at run time: what is kept, and what is said where nothing can be."""

import subprocess
import sys
from pathlib import Path

import pytest

from outpace.comm import native

ANSWER = """
#include <Python.h>
#define import_array()
static PyObject *call(PyObject *module, PyObject *const *given, Py_ssize_t count) { return PyLong_FromLong(%d); }
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the functions of a test are kept."""
    monkeypatch.setattr(native, "_folder", lambda: tmp_path)
    return tmp_path


def test_compiled_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.function("answer", ANSWER % 42)() == 42
    (kept,) = folder.iterdir()
    written = kept.stat().st_mtime_ns
    monkeypatch.setattr(subprocess, "run", None)
    assert native.function("answer", ANSWER % 42)() == 42
    assert [each.stat().st_mtime_ns for each in folder.iterdir()] == [written]


def test_other_code_is_another_function() -> None:
    assert [native.function("answer", ANSWER % number)() for number in (1, 2)] == [1, 2]


@pytest.mark.parametrize("other", ["another processor", "another compiler"])
def test_what_another_machine_compiled_is_not_used(other: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Homes are shared by machines of several kinds."""
    native.function("answer", ANSWER % 42)
    machine = native._machine()
    monkeypatch.setattr(native, "_machine", lambda: (*machine, other))
    native.function("answer", ANSWER % 42)
    assert len(list(folder.iterdir())) == 2


def test_the_processor_is_part_of_the_machine() -> None:
    assert any("fpu" in each or "fp " in each for each in native._machine())


@pytest.mark.parametrize(
    ("compiler", "why"),
    [
        ("nonsense", "nonsense: No such file or directory"),
        ("cc --nonsense", "cc: .*nonsense.*"),
        ("false", "false: exit code 1"),
    ],
)
def test_why_there_is_none(compiler: str, why: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(native.Unbuilt, match=f"^{why}$"):
        native.function("answer", ANSWER % 42)
    assert not list(folder.iterdir())


def test_a_compiler_that_does_not_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = folder / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("CC", str(slow))
    monkeypatch.setattr(native, "TIMEOUT_S", 0.2)
    with pytest.raises(native.Unbuilt, match=r"has not ended after 0\.2 s"):
        native.function("answer", ANSWER % 42)
    assert list(folder.iterdir()) == [slow]


def test_code_that_cannot_be_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system whose files may not be executed."""
    monkeypatch.setattr(native, "_compile", lambda source, path: path.write_bytes(b"no program"))
    with pytest.raises(native.Unbuilt, match=str(folder)):
        native.function("answer", ANSWER % 42)


def test_many_at_once(folder: Path) -> None:
    """As the ranks of a first run: each compiles, and none sees half a file."""
    script = "import sys; from pathlib import Path; from outpace.comm import native\n"
    script += f"native._folder = lambda: Path({str(folder)!r})\n"
    script += f"assert native.function('answer', {ANSWER % 42!r})() == 42"
    ranks = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(6)]
    assert [rank.wait(60) for rank in ranks] == [0] * 6
    assert len(list(folder.iterdir())) == 1
