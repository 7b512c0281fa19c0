"""The command line that is printed can be typed: with the variables that the launch sets, and no others."""

import shlex
from pathlib import Path

import pytest

from outpace.benchmarks.machine.launcher import ENVIRONMENT, command, environment, typed


def printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> list[str]:
    """The words of the line for a launcher that says this of itself, in a shell that has set none of the variables."""
    launcher = tmp_path / "mpiexec"
    launcher.write_text(f"#!/bin/sh\necho {version}\n")
    launcher.chmod(0o755)
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OUTPACE_LAUNCHER", str(launcher))
    monkeypatch.setenv("MKL_NUM_THREADS", "2")  # the user's own, which stays
    return shlex.split(typed(command("outpace.algorithms.d_psgd", 4, ["--out", "a b.h5"]), environment(4)))


def test_open_mpi_may_have_more_ranks_than_slots_and_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = printed(tmp_path, monkeypatch, "mpirun (Open MPI) 5.0.8")
    start = words.index(str(tmp_path / "mpiexec"))
    assert {"OMP_NUM_THREADS=1", "PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe"} < set(words[:start])
    assert {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"} < set(words[:start])
    assert not [word for word in words if word.startswith(("MKL", "OUTPACE", "TTY", "COLUMNS"))]
    assert words[start + 1 : start + 3] == ["-n", "4"]
    assert words[-2:] == ["--out", "a b.h5"]


def test_mpich_needs_none_of_open_mpis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = printed(tmp_path, monkeypatch, "HYDRA build details:")
    assert words[:3] == ["PYTHONSAFEPATH=1", "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1"]
    assert not [word for word in words if word.startswith(("OMPI_", "PRTE_"))]
