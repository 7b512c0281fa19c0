"""The job scripts."""

import os
import re
import subprocess

import pytest

from outpace.benchmarks.sweeps import scripts
from outpace.comm.errors import UserError


def test_jobscripts_are_found_and_copied(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OUTPACE_JOBSCRIPTS", raising=False)
    assert scripts.jobscripts() == scripts.installed()
    scripts.copy(tmp_path / "mine")
    names = {path.name for path in (tmp_path / "mine").iterdir()}
    assert names == {
        "README.md",
        "outpace_check.py",
        "point.sbatch",
        "site.env",
        "steps.sbatch",
        "sweep.sbatch",
        "sweeps",
    }
    monkeypatch.setenv("OUTPACE_JOBSCRIPTS", str(tmp_path / "mine"))
    assert scripts.jobscripts() == tmp_path / "mine"
    monkeypatch.setenv("OUTPACE_JOBSCRIPTS", str(tmp_path))
    with pytest.raises(UserError, match="holds no"):
        scripts.jobscripts()
    with pytest.raises(UserError, match="exists"):
        scripts.copy(tmp_path / "mine")


@pytest.mark.parametrize("script", ["point", "steps"])
@pytest.mark.parametrize(
    ("given", "tasks"),
    [
        ({"SLURM_NTASKS": "6", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4"}, "6"),
        ({"SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4"}, "8"),
        ({"SLURM_NNODES": "2"}, None),
    ],
)
def test_jobscripts_know_the_number_of_tasks_or_say_that_they_do_not(tmp_path, script, given, tasks):
    shown = tmp_path / "outpace"
    shown.write_text('#!/bin/sh\necho "$SLURM_NTASKS: $*"\n')
    shown.chmod(0o755)
    folder = scripts.installed()
    env = {"PATH": os.environ["PATH"], "OUTPACE": str(shown), "OUTPACE_JOBSCRIPTS": str(folder)} | given
    done = subprocess.run(["bash", folder / f"{script}.sbatch", "x"], env=env, capture_output=True, text=True)
    said = {"point": f"{tasks}: run x -n {tasks} --requeue\n", "steps": f"{tasks}: sweep x --requeue\n"}[script]
    assert done.stdout == (said if tasks else "")
    assert bool(done.returncode) == (tasks is None)
    assert re.fullmatch("" if tasks else r".*SLURM_NTASKS: the number of tasks is not known; give .*\n", done.stderr)
