"""C compiled at run time: what is kept, and what is said where nothing can be."""

import os
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


def kept(folder: Path) -> list[Path]:
    """The functions in it, and what a failure has left of one, beside its word."""
    return [each for each in folder.iterdir() if each.name != "native.lock" and each.suffix != ".failed"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the functions of a test are kept."""
    monkeypatch.setattr(native, "_folder", lambda: tmp_path)
    return tmp_path


def test_compiled_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.function("answer", ANSWER % 42)() == 42
    (only,) = kept(folder)
    written = only.stat().st_mtime_ns
    monkeypatch.setattr(subprocess, "run", None)
    assert native.function("answer", ANSWER % 42)() == 42
    assert [each.stat().st_mtime_ns for each in kept(folder)] == [written]


def test_other_code_is_another_function() -> None:
    assert [native.function("answer", ANSWER % number)() for number in (1, 2)] == [1, 2]


@pytest.mark.parametrize("other", ["another processor", "another compiler"])
def test_what_another_machine_compiled_is_not_used(other: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Homes are shared by machines of several kinds."""
    native.function("answer", ANSWER % 42)
    machine = native._machine()
    monkeypatch.setattr(native, "_machine", lambda: (*machine, other))
    native.function("answer", ANSWER % 42)
    assert len(kept(folder)) == 2


def test_the_processor_is_part_of_the_machine() -> None:
    assert any("fpu" in each or "fp " in each for each in native._machine())


@pytest.mark.parametrize(
    ("compiler", "why"),
    [
        ("nonsense", "nonsense: No such file or directory"),
        ("cc --nonsense", "cc --nonsense: .*nonsense.*"),
        ("cc '", "cc ': No closing quotation"),
        ("false", "false: exit code 1"),
    ],
)
def test_why_there_is_none(compiler: str, why: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_compilers", lambda: [compiler, "cc --none"])
    with pytest.raises(native.Unbuilt, match=f"^{why}; cc --none: .*--none"):
        native.function("answer", ANSWER % 42)
    assert not kept(folder)


def test_a_failure_is_known_to_all_for_a_while(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks would else try one after the other, each of its operations, at each launch. Its time over, a compiler that
    works by then is tried."""
    monkeypatch.setattr(native, "_machine", lambda: ("whatever the compilers are",))
    with monkeypatch.context() as broken:
        broken.setattr(native, "_compilers", lambda: ["false"])
        with pytest.raises(native.Unbuilt, match=r"^false: exit code 1$"):
            native.function("answer", ANSWER % 42)
        broken.setattr(subprocess, "run", None)  # which would be called to try
        with pytest.raises(native.Unbuilt, match=r"^false: exit code 1$"):
            native.function("answer", ANSWER % 42)
    (failed,) = folder.glob("*.failed")
    with pytest.raises(native.Unbuilt, match=r"^false: exit code 1$"):
        native.function("answer", ANSWER % 42)
    long_ago = failed.stat().st_mtime - native.AGAIN_S
    os.utime(failed, (long_ago, long_ago))
    assert native.function("answer", ANSWER % 42)() == 42
    assert not failed.exists()


@pytest.mark.parametrize("set_to", ["", " ", "false", "nonsense", "cc"])
def test_where_the_environments_compiler_fails_cc_is_asked(set_to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of another vendor's, which does not know the flags."""
    monkeypatch.setenv("CC", set_to)
    assert native.function("answer", ANSWER % 42)() == 42


def test_the_environments_compiler_comes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = folder.parent / "mine"
    mine.write_text('#!/bin/sh\necho used > "$0.used"\nexec cc "$@"\n')
    mine.chmod(0o755)
    monkeypatch.setenv("CC", f"{mine} -g0")
    native.function("answer", ANSWER % 42)
    assert mine.with_suffix(".used").exists()


def test_a_compiler_that_does_not_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = folder / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(native, "_compilers", lambda: [str(slow)])
    monkeypatch.setattr(native, "TIMEOUT_S", 0.2)
    with pytest.raises(native.Unbuilt, match=r"has not ended after 0\.2 s"):
        native.function("answer", ANSWER % 42)
    assert kept(folder) == [slow]


def test_code_that_cannot_be_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system whose files may not be executed."""
    monkeypatch.setattr(native, "_compile", lambda source, path: path.write_bytes(b"no program"))
    with pytest.raises(native.Unbuilt, match=str(folder)):
        native.function("answer", ANSWER % 42)


@pytest.mark.parametrize("locks", [True, False])
def test_many_at_once(locks: bool, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As the ranks of a first run: one compiles for all, where files can be locked, and none sees half a file."""
    compiler = tmp_path_factory.mktemp("compiler") / "cc"
    compiler.write_text('#!/bin/sh\necho used >> "$0.used"\nexec cc "$@"\n')
    compiler.chmod(0o755)
    script = f"""
import fcntl
from pathlib import Path
from outpace.comm import native
native._folder = lambda: Path({str(folder)!r})
native._compilers = lambda: [{str(compiler)!r}]
if not {locks}:
    fcntl.flock = lambda *_: open("/none")
assert native.function("answer", {ANSWER % 42!r})() == 42
"""
    ranks = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(6)]
    assert [rank.wait(60) for rank in ranks] == [0] * 6
    assert len(kept(folder)) == 1
    used = len(compiler.with_name("cc.used").read_text().splitlines())
    assert used == 1 if locks else 1 <= used <= 6
