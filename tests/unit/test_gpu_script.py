"""The script for a machine with a GPU, which CI has not: its parts are stand-ins here, its looks at traces are real."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "gpu"
TOOLS = ("nvidia-smi", "python", "pytest", "mpiexec", "outpace", "compute-sanitizer")


@pytest.mark.parametrize("gpus", [1, 2])
def test_its_parts_go_on_and_those_that_failed_are_named(tmp_path: Path, gpus: int) -> None:
    """Two ranks with a GPU for each use NCCL; two that see one are refused."""
    for name in TOOLS:
        tool = tmp_path / name
        tool.write_text(
            '#!/bin/sh\necho "$0 $*"\ncase "$0 $*" in */mpiexec*|*"--tool racecheck"*) exit 1 ;; '
            '*"--fabric nccl"*) [ -z "$CUDA_VISIBLE_DEVICES" ] || { echo ranks 0 and 1 share a GPU; exit 2; } ;; '
            f'*"nvidia-smi -L") seq 2 {gpus} ;; esac\n'
        )
        tool.chmod(0o755)
    out = tmp_path / "out"
    done = subprocess.run(
        [str(FOLDER / "run.sh")],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "OUT": str(out)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "failed: conformance racecheck"
    started = {path.stem: path.read_text() for path in out.iterdir()}
    assert "/compute-sanitizer --tool racecheck" in started["racecheck"]
    assert "/outpace run allreduce_sgd" in started["warm"]
    assert ("nccl-average" in started) == ("nccl-ad_psgd" in started) == (gpus == 2)
    assert started["nccl-refused"] == "ranks 0 and 1 share a GPU\n"
    for line in started.values():
        for word in line.split():
            assert not word.startswith("tests/") or (ROOT / word).exists(), word


def test_it_reads_traces() -> None:
    trace = ROOT / "tests" / "golden" / "trace-v1.h5"
    done = subprocess.run(
        [sys.executable, str(FOLDER / "timings.py"), str(trace)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    first, *_ = done.stdout.splitlines()
    assert first.startswith(f"{trace}: first step ")
