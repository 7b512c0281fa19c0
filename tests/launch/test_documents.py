"""Every command line of the documents, typed from top to bottom in one folder; those for Slurm are in tests/slurm."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from documents import DOCUMENTS, in_blocks, sources_of_programs, text_of
from jobs import LIMIT_S

from outpace.benchmarks.machine import namespaces
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

pytestmark = pytest.mark.long

LAPTOP = "results/runs/laptop"
SWEEP = f"""
programs = ["allreduce_sgd", "ad_psgd"]
workers = [2, 4]
folder = "{LAPTOP}"
[flags]
problem = "quadratic:dim=10"
stragglers = ["none", "fixed:rank=0,factor=5"]
compute-time = 0.002
epochs = 1
"""
SHORTER = {  # what is added to a line that would take minutes
    "outpace run": "--epochs 2",
    "mpirun": "--epochs 2",
    "outpace sweep laptop": "--dry-run",
    "outpace micro": "-n 2",
    "outpace claims": "--list",
}


def lines() -> list[str]:
    """Without what asks for a line's help, is a line of make's, needs PyTorch, or is for a queue or for links that
    cannot be here."""
    found = [line for document in DOCUMENTS if "networks" not in document for line in in_blocks(text_of(document))]
    typed = [line for line in found if line.startswith(("outpace ", "mpirun ", "export "))]
    left_out = {"--slurm", "FLAGS"}
    try:
        namespaces.inside("all:rate=1gbit", 1)
    except UserError:
        left_out.add("--links")
    if find_spec("otf2") is None:  # which has no wheel for this Python
        left_out.add("--otf2")
    return [line for line in dict.fromkeys(typed) if not left_out & set(line.split())]


def test_every_command_does_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "SWEEP.toml").write_text(SWEEP)
    for source in sources_of_programs():
        (tmp_path / "periodic_sgd.py").write_text(source)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def typed(line: str) -> subprocess.CompletedProcess[str]:
        more = [
            f"{line} {words}" for start, words in SHORTER.items() if line.startswith(start) and "--help" not in line
        ]
        command = ["bash", "-c", *(more or [line])]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=2 * LIMIT_S, check=False
        )

    typed("outpace sweep SWEEP.toml")
    for name in ("d_psgd", "ad_psgd"):
        typed(f"outpace run {name} -n 4 --compute-time 0.002 --out {name}.h5")
        shutil.copy(tmp_path / f"{name}.h5", tmp_path / "results" / "runs")
    failed = {line: done.stderr for line in lines() if (done := typed(line)).returncode}
    assert not failed
    assert len(lines()) > 15
    assert {"loss.png", "loss.pdf", "timeline.svg", "runs.csv", "runs.parquet"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert len(list((tmp_path / LAPTOP).glob("*.h5"))) == 8
    assert {Run(tmp_path / name).attrs["n_workers"] for name in ("allreduce.h5", "ad.h5", "periodic.h5")} == {4}
