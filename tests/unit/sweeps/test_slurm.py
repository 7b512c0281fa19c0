"""Submissions to Slurm, to commands that stand for its own; `tests/slurm` has the real ones."""

import os

import pytest
from small_sweeps import BASE, SMALL, described

from outpace.benchmarks import command
from outpace.benchmarks.machine import slurm_job
from outpace.benchmarks.sweeps import runner, slurm
from outpace.benchmarks.sweeps.description import load
from outpace.benchmarks.sweeps.point import standing
from outpace.benchmarks.sweeps.scripts import copy
from outpace.comm.errors import UserError


def test_arrays_are_of_one_size_each(tmp_path):
    found = load(described(tmp_path, SMALL)).points
    parts = slurm.batches(found, most=7)
    assert sorted(point.id for part in parts for point in part) == sorted(point.id for point in found)
    assert all(len({point.ranks for point in part}) == 1 and len(part) <= 7 for part in parts)


def test_simulated_ranks_of_any_number_are_one_task(tmp_path):
    text = SMALL.replace("[flags]", '[flags]\nsimulate = "10gbit"\ncompute-time = 0.1')
    (part,) = slurm.batches(load(described(tmp_path, text)).points)
    assert len({point.ranks for point in part}) > 1
    assert {point.processes for point in part} == {1}
    assert {point.target for point in part}.isdisjoint(
        point.target for point in load(described(tmp_path, SMALL)).points
    )


@pytest.fixture
def stands_for(tmp_path, monkeypatch):
    """Puts a shell script in place of a command of Slurm."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def put(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return put


@pytest.fixture
def sbatch(tmp_path, stands_for):
    """The lines of a submission to an sbatch that takes everything, with a queue of nothing."""
    stands_for("sbatch", f'echo "$@" >> {tmp_path}/asked; env > {tmp_path}/env; echo 7')
    stands_for("squeue", "true")

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


def test_what_the_scripts_ask_for_can_be_taken_back(sbatch):
    (line,) = sbatch(BASE)
    assert {"--exclusive", "--signal=B:USR1@120"} < set(line.split())
    (line,) = sbatch(BASE + "repetitions = 2\n[slurm]\nexclusive = false\nsignal = 'B:USR1@30'\n")
    assert "--exclusive" not in line
    assert "--signal=B:USR1@30" in line.split()


def test_a_job_finds_outpace_whatever_is_exported(sbatch):
    (line,) = sbatch(BASE + "[slurm]\nexport = 'NONE'\n")
    assert "--export=NONE,OUTPACE,OUTPACE_JOBSCRIPTS" in line.split()


def test_variables_of_the_user_do_not_change_what_is_asked_and_seen(sbatch, stands_for, tmp_path, monkeypatch):
    own = ["SQUEUE_STATES", "SQUEUE_FORMAT", "SBATCH_ARRAY_INX", "SBATCH_CLUSTERS", "SBATCH_WAIT", "SBATCH_NO_REQUEUE"]
    for name in [*own, "SLURM_CLUSTERS", "SLURM_JOB_ID", "SLURM_CONF", "SBATCH_ACCOUNT", "SBATCH_EXPORT"]:
        monkeypatch.setenv(name, "strange")
    sbatch(BASE)
    told = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
    left = {name for name, text in told.items() if text.startswith("strange")}
    assert left == {"SLURM_CONF", "SBATCH_ACCOUNT", "SBATCH_EXPORT"}
    assert told["SBATCH_EXPORT"] == "strange,OUTPACE,OUTPACE_JOBSCRIPTS"
    stands_for("squeue", f"env > {tmp_path}/env")
    assert slurm.queued(tmp_path / "runs") == {}
    assert not {"SQUEUE_STATES", "SQUEUE_FORMAT", "SLURM_CLUSTERS"} & {
        line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()
    }


def test_a_queue_that_is_not_told_is_not_empty(sbatch, stands_for, tmp_path, capsys):
    """Nothing is submitted; who submits nothing goes on."""
    sbatch(BASE)
    stands_for("squeue", "echo 'squeue: error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(UserError, match=r"^what waits under Slurm is not known: squeue: Unable to contact slurm contr"):
        sbatch(BASE)
    assert (tmp_path / "asked").read_text() == ""
    assert runner.status(load(described(tmp_path, BASE), tmp_path / "runs"), verbose=False) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].endswith("1 missing")
    assert "what waits under Slurm is not known" in said.err


def test_without_squeue_nothing_is_submitted(stands_for, tmp_path, monkeypatch):
    stands_for("sbatch", f"echo >> {tmp_path}/asked; echo 7")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UserError, match="--slurm: no squeue on the PATH"):
        runner.submit(load(described(tmp_path, BASE), tmp_path / "runs"), retry_failed=False)
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "printf 'a\nsbatch: error: No partition\nsbatch: error: Batch job submission failed: x\n' >&2; exit 1",
            r"^sbatch refused: No partition; Batch job submission failed: x$",
        ),
        ("exit 3", r"^sbatch refused: exit code 3$"),
        ("true", r"^sbatch named no job: it said nothing$"),
    ],
)
def test_all_that_sbatch_says_is_told(sbatch, stands_for, script, said):
    stands_for("sbatch", script)
    with pytest.raises(UserError, match=said):
        sbatch(BASE)


def test_site_files_may_print(sbatch, tmp_path, monkeypatch, capsys):
    scripts = tmp_path / "mine"
    copy(scripts)
    with open(scripts / "site.env", "a") as file:
        file.write("echo loading modules; ready\nfalse\n")
    monkeypatch.setenv("OUTPACE_JOBSCRIPTS", str(scripts))
    assert len(sbatch(BASE)) == 1
    said = capsys.readouterr().out
    assert f"site file: {scripts}/site.env\n" in said
    assert "job 7: 1 point(s)" in said


def test_patterns_of_sbatch_in_a_folder_are_text(sbatch, tmp_path):
    runner.submit(load(described(tmp_path, BASE), tmp_path / "100%A"), retry_failed=False)
    assert f"--output={tmp_path}/100%%A/slurm/%A_%a.out" in (tmp_path / "asked").read_text()
    with pytest.raises(UserError, match="has a backslash"):
        runner.submit(load(described(tmp_path, BASE), tmp_path / "a\\b"), retry_failed=False)


def test_sweeps_of_the_same_points_in_two_folders_have_jobs_of_their_own(sbatch, tmp_path, monkeypatch):
    """Their paths are the same, relative to each."""
    names = set()
    for place in ("one", "other"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        runner.submit(load(described(tmp_path, BASE + "folder = 'runs'\n")), retry_failed=False)
        (path,) = (tmp_path / place).glob("runs/slurm/*.manifest")
        names.add(path.name)
    assert len(names) == 2


@pytest.mark.parametrize(
    "words", [["run", "d_psgd", "-n", "2"], ["sweep", "laptop"], ["sweep", "laptop", "--point", "1"]]
)
def test_a_heterogeneous_job_is_refused(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_HET_SIZE", "2")
    slurm_job.check_allocation()  # outside of a job it says nothing
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert command.main(words) == 2
    assert "a heterogeneous Slurm job of 2 components" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_tasks_are_those_of_a_job(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert slurm_job.room() == 0
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert slurm_job.room() == 4
    for text in ("", "²", "9" * 5000):
        monkeypatch.setenv("SLURM_NTASKS", text)
        assert slurm_job.room() == 0


def test_points_with_links_are_not_submitted_without_root(sbatch, tmp_path, monkeypatch):
    """Jobs are the same user's: each of them would end with this line."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserError, match="--links needs root"):
        sbatch(BASE + '[flags]\nlinks = ["none", "all:rate=1gbit"]\n')
    assert (tmp_path / "asked").read_text() == ""
    assert not (tmp_path / "runs").exists()
    assert len(sbatch(BASE + '[flags]\nlinks = "none"\n')) == 1
