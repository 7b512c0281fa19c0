"""The command line that is printed can be typed: with the variables that the launch sets, and no others."""

import shlex
from pathlib import Path

import pytest

from outpace.benchmarks.machine.launcher import ENVIRONMENT, command, environment, typed


def printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    """The words of the line for a launcher that is a link to this name, in a shell that has set none of the variables.
    The launcher itself is not asked: a script may do anything."""
    (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\n")
    (tmp_path / name).chmod(0o755)
    launcher = tmp_path / "mpiexec"
    launcher.symlink_to(name)
    for variable in ENVIRONMENT:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("OUTPACE_LAUNCHER", str(launcher))
    monkeypatch.setenv("MKL_NUM_THREADS", "2")  # the user's own, which stays
    words = shlex.split(typed(command("outpace.algorithms.d_psgd", 4, ["--out", "a b.h5"]), environment(4)))
    assert not (tmp_path / "asked").exists()
    return words


def test_open_mpi_may_have_more_ranks_than_slots_and_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = printed(tmp_path, monkeypatch, "prterun")
    start = words.index(str(tmp_path / "mpiexec"))
    assert {"OMP_NUM_THREADS=1", "PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe"} < set(words[:start])
    assert {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"} < set(words[:start])
    assert not [word for word in words if word.startswith(("MKL", "OUTPACE", "TTY", "COLUMNS"))]
    assert words[start + 1 : start + 3] == ["-n", "4"]
    assert words[-2:] == ["--out", "a b.h5"]


def test_mpich_needs_none_of_open_mpis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = printed(tmp_path, monkeypatch, "mpiexec.hydra")
    assert words[:3] == ["PYTHONSAFEPATH=1", "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1"]
    assert not [word for word in words if word.startswith(("OMPI_", "PRTE_"))]


def test_a_file_of_the_user_needs_what_is_not_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    """mpi4py puts the file's folder in the place of the path's first entry."""
    line = command("./my.py", 4, [])
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    assert "PYTHONSAFEPATH=" in shlex.split(typed(line, environment(4, script=True)))
    monkeypatch.delenv("PYTHONSAFEPATH")
    assert not [word for word in shlex.split(typed(line, environment(4, script=True))) if "SAFEPATH" in word]
