"""Submissions to Slurm."""

import os

import pytest
from small_sweeps import BASE, SMALL, described

from outpace.benchmarks.sweeps import runner, slurm
from outpace.benchmarks.sweeps.description import load
from outpace.benchmarks.sweeps.point import standing


def test_arrays_are_of_one_size_each(tmp_path):
    found = load(described(tmp_path, SMALL)).points
    parts = slurm.batches(found, most=7)
    assert sorted(point.id for part in parts for point in part) == sorted(point.id for point in found)
    assert all(len({point.ranks for point in part}) == 1 and len(part) <= 7 for part in parts)


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """The lines of a submission to an sbatch that takes everything."""
    script = tmp_path / "bin" / "sbatch"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho 7\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")

    def submit(text: str, retry_failed: bool = False) -> list[str]:
        (tmp_path / "asked").write_text("")
        runner.submit(load(described(tmp_path, text), tmp_path / "runs"), retry_failed)
        return (tmp_path / "asked").read_text().splitlines()

    return submit


def test_options_of_sbatch(sbatch):
    (line,) = sbatch(BASE + "[slurm]\ntime = 5\ncontiguous = true\nuse-min-nodes = false\nthrottle = 3\n")
    words = line.split()
    assert {"--ntasks=2", "--array=1-1%3", "--time=5", "--contiguous"} < set(words)
    assert not [word for word in words if word.startswith(("--use-min-nodes", "--throttle"))]


def test_what_failed_is_submitted_on_request(sbatch, tmp_path):
    """And then no more failed: a task of the array that finds it so again finds what another has failed."""
    assert len(sbatch(BASE)) == 1
    (point,) = load(described(tmp_path, BASE), tmp_path / "runs").points
    point.beside(".failed").write_text("no luck")
    assert sbatch(BASE) == []
    assert len(sbatch(BASE, retry_failed=True)) == 1
    assert standing(point).state == "missing"
