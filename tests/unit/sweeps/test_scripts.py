"""The job scripts."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from outpace.benchmarks.sweeps import scripts
from outpace.comm.errors import UserError


def test_jobscripts_are_found_and_copied(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OUTPACE_JOBSCRIPTS", raising=False)
    nowhere = tmp_path / "sweep.toml"
    assert scripts.jobscripts(nowhere) == scripts.installed()
    scripts.copy(tmp_path / "mine")
    names = {path.name for path in (tmp_path / "mine").iterdir()}
    assert names == {
        "README.md",
        "job.sh",
        "outpace_check.py",
        "point.sbatch",
        "site.env",
        "steps.sbatch",
        "sweep.sbatch",
        "sweeps",
    }
    monkeypatch.setenv("OUTPACE_JOBSCRIPTS", str(tmp_path / "mine"))
    assert scripts.jobscripts(nowhere) == tmp_path / "mine"
    monkeypatch.setenv("OUTPACE_JOBSCRIPTS", str(tmp_path))
    with pytest.raises(UserError, match="holds no"):
        scripts.jobscripts(nowhere)
    with pytest.raises(UserError, match="exists"):
        scripts.copy(tmp_path / "mine")


def test_adapted_scripts_are_found_from_another_folder(tmp_path, monkeypatch):
    """Beside the sweep or above it, after those here; what lacks its site file is none."""
    monkeypatch.delenv("OUTPACE_JOBSCRIPTS", raising=False)
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    (project / "deep").mkdir(parents=True)
    elsewhere.mkdir()
    scripts.copy(project / "jobscripts")
    monkeypatch.chdir(elsewhere)
    for sweep in (project / "s.toml", project / "deep" / "s.toml", project / "jobscripts" / "sweeps" / "laptop.toml"):
        assert scripts.jobscripts(sweep) == project / "jobscripts"
    scripts.copy(elsewhere / "jobscripts")
    assert scripts.jobscripts(project / "s.toml") == Path("jobscripts")
    (elsewhere / "jobscripts" / "site.env").unlink()
    assert scripts.jobscripts(project / "s.toml") == project / "jobscripts"


def run_script(tmp_path, name, site, given):
    """Run a job script in this folder with this site file; PATH has no outpace."""
    folder = tmp_path / "jobscripts"
    scripts.copy(folder)
    (folder / "site.env").write_text(site)
    env = {"PATH": "/usr/bin:/bin", "OUTPACE_JOBSCRIPTS": str(folder)} | given
    return subprocess.run(
        ["bash", folder / f"{name}.sbatch", "x"], env=env, cwd=tmp_path, capture_output=True, text=True
    )


def shows(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('#!/bin/sh\necho "$0 $*"\n')
    path.chmod(0o755)


def test_a_site_file_need_not_bear_set_eu(tmp_path):
    """As the activation of modules and of conda need not."""
    shows(tmp_path / "outpace")
    site = 'false\n: "$NO_SUCH_VARIABLE"\n'
    done = run_script(tmp_path, "sweep", site, {"OUTPACE": str(tmp_path / "outpace")})
    assert (done.stdout, done.stderr) == (f"{tmp_path}/outpace sweep x --slurm\n", "")


def test_outpace_is_found_beside_the_scripts_or_one_line_says_that_it_is_not(tmp_path):
    done = run_script(tmp_path, "sweep", "", {})
    told = f"outpace is not found in this job; put it on the PATH in {tmp_path}/jobscripts/site.env\n"
    assert (done.returncode, done.stderr) == (2, told)
    shutil.rmtree(tmp_path / "jobscripts")
    shows(tmp_path / ".venv" / "bin" / "outpace")
    assert run_script(tmp_path, "sweep", "", {}).stdout.endswith(".venv/bin/outpace sweep x --slurm\n")
    shutil.rmtree(tmp_path / "jobscripts")
    shows(tmp_path / "modules" / "outpace")
    site = f'PATH="{tmp_path}/modules:$PATH"\n'
    assert run_script(tmp_path, "sweep", site, {}).stdout == f"{tmp_path}/modules/outpace sweep x --slurm\n"


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
