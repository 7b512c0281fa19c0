"""A point, and what is put in place of the launcher and the queue."""

import dataclasses

import pytest
from small_sweeps import BASE, described

from outpace.benchmarks.sweeps import slurm
from outpace.benchmarks.sweeps.description import load


@pytest.fixture
def point(tmp_path):
    return dataclasses.replace(
        load(described(tmp_path, BASE)).points[0], target=tmp_path / "runs" / "d_psgd-2-0123456789abcdef.h5"
    )


@pytest.fixture
def launcher(point, tmp_path, monkeypatch):
    """Has points be run by a shell script, in which $runner is the runner's process, two above, and $1 the trace."""
    point.target.parent.mkdir()

    def runs(script: str) -> None:
        path = tmp_path / "launcher"
        path.write_text(f"#!/bin/sh\nset -- {point.target}\nread -r _ _ _ runner _ < /proc/$PPID/stat\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("OUTPACE_LAUNCHER", str(path))

    return runs


@pytest.fixture
def requeued(monkeypatch):
    """Tells how often the job was requeued."""
    asked: list[None] = []
    monkeypatch.setattr(slurm, "requeue", lambda: asked.append(None))
    return lambda: len(asked)
