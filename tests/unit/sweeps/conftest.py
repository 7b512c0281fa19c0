"""A point, and what is put in place of the launcher and the queue."""

import dataclasses
from pathlib import Path

import pytest
from small_sweeps import BASE, described

from outpace.benchmarks.machine import slurm_job
from outpace.benchmarks.sweeps.description import load
from outpace.benchmarks.trace.run import Run

GOLDEN = Path(__file__).parents[2] / "golden" / "trace-v1.h5"


@pytest.fixture
def point(tmp_path):
    """One whose trace the golden file may be."""
    identity = Run(GOLDEN).attrs["config_id"]
    target = tmp_path / "runs" / f"d_psgd-2-{identity}.h5"
    return dataclasses.replace(load(described(tmp_path, BASE)).points[0], id=identity, target=target)


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
    monkeypatch.setattr(slurm_job, "requeue", lambda: asked.append(None))
    return lambda: len(asked)
