"""Sweeps before anything runs: expansion, ids, manifests, errors; and what files say of a point."""

import dataclasses
import importlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path

import h5py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.benchmarks import command
from outpace.benchmarks.running.plan import make_plan, parse_flags
from outpace.benchmarks.sweeps import point as points
from outpace.benchmarks.sweeps import runner, scripts, slurm
from outpace.benchmarks.sweeps.description import load, presets, programs
from outpace.benchmarks.sweeps.manifest import Sweep, manifest
from outpace.benchmarks.sweeps.point import Busy, Point, Standing, claim, standing
from outpace.benchmarks.trace import checkpoint
from outpace.comm.errors import UserError

GOLDEN = Path(__file__).parents[1] / "golden" / "trace-v1.h5"
SMALL = """
programs = ["allreduce_sgd", "ad_psgd", "a_psgd"]
workers = [2, 4]
repetitions = 3
[flags]
problem = "quadratic:dim=4"
stragglers = ["none", "fixed:rank=0,factor=10"]
topology = ["ring", "star"]
"""


def described(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(text)
    return path


def flag(point: Point, name: str) -> str | None:
    flags = list(point.flags)
    return flags[flags.index(name) + 1] if name in flags else None


# Expansion.


def test_every_combination_once_and_flags_only_where_they_are_known(tmp_path):
    sweep = load(described(tmp_path, SMALL))
    found = {
        (p.program, p.ranks, flag(p, "--seed"), flag(p, "--stragglers"), flag(p, "--topology")) for p in sweep.points
    }
    slow = ("none", "fixed:rank=0,factor=10")
    expected = {
        (program, workers + (program == "a_psgd"), str(seed), stragglers, topology)
        for program, workers, seed, stragglers in itertools.product(
            ("allreduce_sgd", "ad_psgd", "a_psgd"), (2, 4), range(3), slow
        )
        for topology in (("ring", "star") if program == "ad_psgd" else (None,))
    }
    assert found == expected
    assert len(sweep.points) == len(expected) == 48
    assert sweep.folder == Path("results/runs/small")
    seeds = [flag(point, "--seed") for point in sweep.points]
    assert seeds == sorted(seeds)  # repetitions outermost
    assert {p.target.name for p in sweep.points} == {
        f"{p.program}-{p.ranks - (p.program == 'a_psgd')}-{p.id}.h5" for p in sweep.points
    }


def test_the_id_is_the_config_id_of_the_command(tmp_path):
    """As the program itself computes it from the flags of the command line."""
    for point in load(described(tmp_path, SMALL)).points:
        module = importlib.import_module(f"outpace.algorithms.{point.program}")
        assert point.command[:5] == ["outpace", "run", point.program, "-n", str(point.ranks)]
        plan = make_plan(point.program, *parse_flags(point.program, module.Config, point.command[5:]), point.ranks)
        assert plan.config_id == point.id
        assert plan.target == point.target


def test_cases_overrides_switches_and_exclusions(tmp_path):
    text = """
    programs = ["d_psgd", "d2", "a_psgd"]
    [flags]
    problem = "quadratic:dim=4"
    step_size = 0.5
    geometry = true
    topology = "ring"
    [program.d2]
    topology = ["ring:lazy=1", "complete"]
    allow-unstable = false
    step-size = 0.1
    [program.a_psgd]
    servers = 2
    [[case]]
    workers = 4
    batch-size = 64
    [[case]]
    workers = [8, 16]
    batch-size = 32
    [[exclude]]
    program = ["d2", "a_psgd"]
    workers = 16
    """
    found = load(described(tmp_path, text)).points
    counts = Counter((p.program, p.ranks, flag(p, "--batch-size"), flag(p, "--step-size")) for p in found)
    assert counts == {
        ("d_psgd", 4, "64", "0.5"): 1,
        ("d_psgd", 8, "32", "0.5"): 1,
        ("d_psgd", 16, "32", "0.5"): 1,
        ("d2", 4, "64", "0.1"): 2,
        ("d2", 8, "32", "0.1"): 2,
        ("a_psgd", 6, "64", "0.5"): 1,
        ("a_psgd", 10, "32", "0.5"): 1,
    }
    assert all("--geometry" in point.flags for point in found)
    assert {"--no-allow-unstable" in point.flags for point in found if point.program == "d2"} == {True}
    assert {flag(point, "--seed") for point in found} == {None}


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4, unique=True),
    st.lists(st.floats(0.001, 1).map(lambda x: float(f"{x:.4g}")), min_size=1, max_size=4, unique=True),
    st.integers(1, 4),
)
def test_ids_are_unique_and_stable(tmp_path_factory, workers, step_sizes, repetitions):
    def ids(order: int, out: str) -> list[str]:
        text = f"programs = ['allreduce_sgd', 'd_psgd']\nworkers = {workers[::order]}\nrepetitions = {repetitions}\n"
        text += f"[flags]\nstep-size = {step_sizes[::order]}\n"
        path = tmp_path_factory.mktemp("ids") / "x.toml"
        path.write_text(text)
        return [point.id for point in load(path, Path(out)).points]

    first = ids(1, "here")
    assert len(set(first)) == len(first) == 2 * len(workers) * len(step_sizes) * repetitions
    assert set(ids(-1, "there")) == set(first)


def test_presets():
    """They are whole, and stay so when flags and programs change."""
    assert set(presets()) >= {"heterogeneity", "scaling-strong", "scaling-weak", "label-skew", "stragglers", "laptop"}
    points = {name: load(Path(name)).points for name in presets()}
    assert min(map(len, points.values())) > 10
    assert {point.program for point in points["heterogeneity"]} == set(programs()) - {"katyusha_x"}
    factors = {(flag(point, "--stragglers") or "").rpartition("=")[2] for point in points["heterogeneity"]}
    assert factors == {"none", "2", "5", "10", "100"}


# Errors, all before anything starts.

BASE = 'programs = ["d_psgd"]\nworkers = 2\n'
ERRORS = [
    ('programs = ["d_psgd"\nworkers = 2', "line 2"),
    ("programs = ['d_psgd']\n[flags]\nepochs = = 3\nworkers = 2", "line 3, column 10"),
    ("workers = 2", 'programs is missing: "all", or a list of a_psgd, '),
    ('programs = ["sgd"]\nworkers = 2', "unknown program 'sgd'; allowed: a_psgd, "),
    ('programs = ["d_psgd"]', "workers is missing for d_psgd"),
    (BASE.replace("2", '"two"'), "workers must be a whole number"),
    (BASE.replace("2", "0"), "workers must be a whole number"),
    (BASE + "seeds = 3", "unknown key 'seeds'; allowed: programs, workers"),
    (BASE + "repetitions = 0", "repetitions is 0; it must be at least 1"),
    (BASE + "repetitions = true", "repetitions is True; it must be a whole number"),
    (BASE + "[flags]\nlr = [0.1, 0.2]", "[flags]: unknown flag 'lr'; allowed: backend, batch-size"),
    (BASE + "[flags]\nstep-size = []", "[flags]: step-size is an empty list"),
    (BASE + "[flags]\nstep-size = [[1]]", "step-size is [1]; it must be a text, a number"),
    (BASE + "[flags]\nepochs = 'many'", "epochs"),
    (BASE + "[flags]\nepochs = -1", "d_psgd, workers = 2: --epochs is -1; it must be more than 0"),
    (BASE + "[flags]\ndtype = 'float16'", "invalid choice 'float16'"),
    (BASE + "[flags]\nproblem = 'imagenet'", "--problem: unknown name 'imagenet'; allowed: digits"),
    (BASE + "[flags]\nstragglers = 'fixed:rank=2,factor=10'", "rank is 2; it must be at most 1"),
    (BASE + "[flags]\nout = 'x.h5'", "out is set by the sweep itself"),
    (BASE + "repetitions = 2\n[flags]\nseed = [4, 5]", "seed is given, and so is repetitions"),
    (BASE + "[program.ad_psgd]\nepochs = 3", "[program.ad_psgd]: not one of the programs: d_psgd"),
    (BASE + "[program.d_psgd]\nservers = 3", "[program.d_psgd]: unknown flag 'servers'"),
    (BASE + "[[exclude]]\nworkers = 3", "[[exclude]] number 1 fits no point"),
    (BASE + "[[exclude]]\nworker = 2", "[[exclude]]: unknown flag 'worker'"),
    (BASE + "[[exclude]]\nworkers = 2", "no point is left"),
    (BASE + "[exclude]\nworkers = 2", "exclude is {'workers': 2}; it must be an array of tables"),
    (BASE + "[slurm]\ntime = [1]", "[slurm]: time is [1]; it must be one value"),
    (BASE + "[slurm]\nthrottle = true", "[slurm]: throttle is True; it must be a number"),
    (
        BASE + "[slurm]\njob-name = 'mine'",
        "[slurm]: job-name is set by the sweep itself, as are all of array,",
    ),
    (BASE + "[slurm]\nrequeue = false", "[slurm]: requeue is set by the sweep itself"),
    (BASE + f"folder = '{'x' * 300}'", "folder: xxx"),
    ('programs = ["ad_psgd"]\nworkers = [2, 3]', "ad_psgd, workers = 3: the graph ring of 3 workers has an odd cycle"),
    ('programs = ["d2"]\nworkers = 4\n[flags]\ntopology = "ring"', "smallest eigenvalue"),
    ('programs = ["quantized_sgd"]\nworkers = 4\n[flags]\ncodec = "zip"', "--codec: unknown name 'zip'"),
    ('programs = ["sign_sgd"]\nworkers = 4\n[flags]\nadversaries = "flip:rank=7"', "there are ranks 0 to 3"),
]


@pytest.mark.parametrize(("text", "said"), ERRORS, ids=[said for _, said in ERRORS])
def test_refused(tmp_path, text, said):
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        load(described(tmp_path, text))
    assert str(refused.value).startswith(str(tmp_path / "small.toml"))
    assert "\n" not in str(refused.value)
    assert os.listdir(tmp_path) == ["small.toml"]


def test_two_points_of_one_id_are_named(tmp_path):
    text = BASE + "[flags]\nproblem = ['quadratic:dim=4', 'quadratic:dim=4,condition=10']"
    with pytest.raises(UserError, match=r"two points are the same run, id [0-9a-f]{16}") as refused:
        load(described(tmp_path, text))
    assert "quadratic:dim=4'" in str(refused.value)
    assert "quadratic:dim=4,condition=10'" in str(refused.value)


def test_unreadable_files(tmp_path):
    with pytest.raises(UserError, match="no such file, and no such preset; presets: heterogeneity, "):
        load(tmp_path / "nowhere.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "binary.toml")
    with pytest.raises(UserError):
        load(tmp_path / ("x" * 300))


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        load(described(tmp_path, BASE), tmp_path / "file")
    with pytest.raises(UserError, match=r"below cannot be written: Not a directory"):
        runner.prepare(load(described(tmp_path, BASE), tmp_path / "file" / "below"))


@pytest.mark.parametrize("closed", ["above", "above/runs"])
def test_a_folder_that_cannot_be_searched_is_refused(tmp_path, monkeypatch, closed):
    """By a sweep and by its manifest. Root has no such folders, so the refusal is made."""
    folder = tmp_path / "above" / "runs"
    path = described(tmp_path, BASE)
    (tmp_path / "m.txt").write_text(manifest(load(path, folder).points))
    stat = os.stat

    def denied(path, *args, **more):
        if tmp_path / closed in Path(path).parents:
            raise PermissionError(13, "Permission denied")
        return stat(path, *args, **more)

    monkeypatch.setattr(os, "stat", denied)
    for file, own in ((path, folder), (tmp_path / "m.txt", None)):
        with pytest.raises(UserError, match=f"folder: {folder} cannot be searched: Permission denied"):
            load(file, own)


def test_two_nodes_see_at_once_whether_they_can_write(tmp_path, monkeypatch):
    """Their processes may have the same number; the probe of one is not the other's."""
    sweep = load(described(tmp_path, BASE), tmp_path / "runs")
    monkeypatch.setattr(os, "getpid", lambda: 7)
    opens, seen = os.open, []

    def other_node_meanwhile(*args):
        descriptor = opens(*args)
        monkeypatch.setattr(os, "open", opens)
        runner.prepare(sweep)
        seen.extend(os.listdir(sweep.folder))
        return descriptor

    monkeypatch.setattr(os, "open", other_node_meanwhile)
    runner.prepare(sweep)
    assert len(seen) == 1  # that of the first, which the second left alone
    assert os.listdir(sweep.folder) == []


def test_status_prints_what_looks_like_markup_as_it_is(tmp_path, capsys):
    sweep = load(described(tmp_path, BASE), tmp_path / "a[b] [/b] :x:")
    runner.prepare(sweep)
    (point,) = sweep.points
    labelled = dataclasses.replace(point, flags=("--problem", "libsvm:path=/data[/b]"))
    labelled.beside(".failed").write_text("[/b] is missing")
    assert runner.status(dataclasses.replace(sweep, points=[labelled])) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{sweep.folder}: 1 failed"
    assert "libsvm:path=/data[/b]" in said[1]
    assert said[2:] == ["         [/b] is missing", f"         {point.beside('.log')}"]


@pytest.mark.parametrize("interrupted", ["load", "survey"])
def test_ctrl_c_before_anything_runs_ends_quietly(tmp_path, monkeypatch, capsys, interrupted):
    path = described(tmp_path, BASE)

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(*{"load": (tomllib, "loads"), "survey": (points, "standing")}[interrupted], interrupt)
    assert command.main(["sweep", str(path), "--status"]) == 130
    assert capsys.readouterr().err == ""


# Manifests.


def test_manifest_brings_the_points_back(tmp_path):
    sweep = load(described(tmp_path, SMALL), tmp_path / "a folder")
    path = tmp_path / "m.txt"
    path.write_text(manifest(sweep.points))
    assert load(path).points == sweep.points
    assert load(path).folder == sweep.folder
    with pytest.raises(UserError, match="is a manifest, whose points have their folder"):
        load(path, tmp_path)


def test_a_manifest_that_is_not_whole_is_refused(tmp_path):
    """Cut anywhere, or with a line lost, doubled or changed."""
    text = manifest(load(described(tmp_path, SMALL)).points[:4])
    lines = text.splitlines(keepends=True)
    broken = [text[:cut] for cut in range(len(lines[0]), len(text) - 1, 7)]
    broken += ["".join(lines[:2] + lines[3:]), "".join(lines[:2] + lines[1:]), text.replace("--seed 0", "--seed 1")]
    path = tmp_path / "m.txt"
    for each in broken:
        path.write_text(each)
        with pytest.raises(UserError, match="not a whole manifest"):
            load(path)


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


# A point on disk.


@pytest.fixture
def point(tmp_path):
    return dataclasses.replace(
        load(described(tmp_path, BASE)).points[0], target=tmp_path / "runs" / "d_psgd-2-0123456789abcdef.h5"
    )


def traced(point: Point, status: str) -> None:
    point.target.write_bytes(GOLDEN.read_bytes())
    with h5py.File(point.target, "a") as file:
        file.attrs["status"] = status


def test_what_has_become_of_a_point(point):
    point.target.parent.mkdir()
    assert standing(point).state == "missing"
    part = point.target.with_name(point.target.name + ".part-0")
    part.write_bytes(b"")
    assert standing(point) == Standing("partial", "killed without a checkpoint; starts again")
    for rank in range(point.ranks):
        assert standing(point).reason == "killed without a checkpoint; starts again"
        checkpoint.path(point.target, rank, 3).write_bytes(b"")
    assert standing(point) == Standing("partial", "goes on from its checkpoint")
    traced(point, "partial")
    assert standing(point) == Standing("partial", "goes on from its checkpoint")
    point.beside(".failed").write_text("exit code 1: d_psgd: no luck\n")
    goes_on = "exit code 1: d_psgd: no luck; --retry-failed goes on from its checkpoint"
    assert standing(point) == Standing("failed", goes_on)
    point.target.unlink()
    assert standing(point) == Standing("failed", goes_on)
    part.unlink()
    assert str(standing(point)) == "failed: exit code 1: d_psgd: no luck"
    for rank in range(point.ranks):
        checkpoint.forget(point.target, rank)
    for status, state in (("complete", "done"), ("diverged", "diverged"), ("partial", "failed")):
        traced(point, status)
        assert standing(point).state == state
    points.forgive(point)
    assert standing(point).state == "partial"
    point.target.write_bytes(point.target.read_bytes()[:1000])
    assert standing(point).state == "failed"
    assert "cannot be read as HDF5" in standing(point).reason


HOLD = """
import os, subprocess, sys, time
from pathlib import Path
from outpace.benchmarks.sweeps.point import Point, claim
with claim(Point("x", "d_psgd", 2, (), Path(sys.argv[1]))) as held:
    child = subprocess.Popen(["sleep", sys.argv[2]], pass_fds=[held])
    print(child.pid, flush=True)
    time.sleep(60)
"""


def hold(point: Point, child_s: float) -> tuple[subprocess.Popen[str], int]:
    """Another process that has claimed the point and started something; and that one's process id."""
    line = [sys.executable, "-c", HOLD, str(point.target), str(child_s)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONSAFEPATH": "1"})
    assert process.stdout
    with process.stdout as said:
        return process, int(said.readline())


def test_a_point_is_claimed_by_one_and_as_long_as_anything_of_it_runs(point, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(points, "PROBED_S", 0.3)
    point.target.parent.mkdir()
    process, child = hold(point, 30)
    assert standing(point).state == "running"
    assert f"process {process.pid}" in standing(point).reason
    with pytest.raises(Busy, match=f"process {process.pid}"), claim(point):
        pass
    process.kill()  # no clean-up of any kind, and what it had started still runs
    process.wait()
    with pytest.raises(Busy), claim(point):
        pass
    os.kill(child, signal.SIGKILL)
    with claim(point):
        assert point.beside(".lock").read_text().endswith(f"process {os.getpid()}")
    assert os.listdir(point.target.parent) == []
    assert standing(point).state == "missing"


def test_a_requeued_job_waits_for_its_earlier_life(point, monkeypatch):
    monkeypatch.setattr(points, "PROBED_S", 0.1)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    point.target.parent.mkdir()
    process, _ = hold(point, 1.5)
    process.kill()
    process.wait()
    start = time.monotonic()
    with claim(point):
        assert time.monotonic() - start > 1
    process, _ = hold(point, 1.5)
    process.kill()
    process.wait()
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    with pytest.raises(Busy, match="job 77"), claim(point):
        pass


@pytest.fixture
def launcher(point, tmp_path, monkeypatch):
    """Has points be run by a shell script, in which the runner is $PPID and $1 the trace."""
    point.target.parent.mkdir()

    def runs(script: str) -> None:
        path = tmp_path / "launcher"
        path.write_text(f"#!/bin/sh\nset -- {point.target}\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("OUTPACE_LAUNCHER", str(path))

    return runs


def meets(name: str, then: str) -> str:
    """A script that has the runner get this signal, and does `then` when it is passed on."""
    return f"trap '{then}' {name}\nkill -{name} $PPID\nsleep 20 & wait"


CHECKPOINT = "touch $1.part-0 $1.part-1 $1.part-0.state-1 $1.part-1.state-1"


@pytest.mark.parametrize(
    ("script", "state"),
    [
        (meets("TERM", "exit 143"), "missing"),
        (meets("TERM", f"{CHECKPOINT}; exit 143"), "partial"),
        (meets("TERM", "exit 15"), "missing"),
        ("kill -TERM $PPID; sleep 20", "missing"),  # dies of it
        ("kill -USR1 $PPID; sleep 20", "missing"),
        (meets("INT", ":"), "missing"),  # as SIGUSR1, of which it dies
        (f"trap '{CHECKPOINT}; exit 75' USR1\nkill -INT $PPID\nsleep 20 & wait", "partial"),
        ("trap : USR1 TERM; for k in 1 2 3; do kill -INT $PPID; sleep 0.5; done; sleep 20", "missing"),
        (meets("TERM", "echo d_psgd: quota exceeded; exit 1"), "failed"),
        (meets("USR1", f"{CHECKPOINT}; echo d_psgd: quota exceeded; exit 1"), "failed"),
        (meets("USR1", "kill -KILL $$"), "failed"),
    ],
)
def test_a_signal_excuses_only_the_ends_that_it_leads_to(point, launcher, script, state):
    launcher(script)
    with points.Signals() as signals:
        after = points.run(point, signals)
    assert signals.taken
    assert after.state == standing(point).state == state
    assert point.beside(".failed").exists() == (state == "failed")
    if "quota" in script:
        assert after.reason == "exit code 1: d_psgd: quota exceeded"


@pytest.fixture
def requeued(monkeypatch):
    """Tells how often the job was requeued."""
    asked: list[None] = []
    monkeypatch.setattr(slurm, "requeue", lambda: asked.append(None))
    return lambda: len(asked)


def test_a_turn_that_leads_nowhere_is_the_last(point, launcher, requeued, capsys):
    """Of an array's task: the job is requeued from a new checkpoint only."""
    sweep = Sweep("one", point.target.parent, [point])
    turns = [
        (f"{CHECKPOINT}; exit 75", 75, "partial"),
        ("exit 75", 1, "failed"),  # the checkpoint is the one of before
        (f"{CHECKPOINT}; exit 75", 1, "failed"),  # not run again
    ]
    for script, code, state in turns:
        launcher(meets("USR1", script))
        assert runner.run_one(sweep, 1, retry_failed=False, requeue=True) == code
        assert standing(point).state == state
        assert requeued() == 1
    said = capsys.readouterr().out
    assert "failed: no checkpoint was written in this turn, so the job is not requeued; give it a longer time" in said
    assert "--retry-failed goes on from its checkpoint" in said
    assert runner.wanted(runner.survey(sweep), retry_failed=False) == []


def test_a_sweep_in_one_job_has_another_turn_where_this_one_finished_a_point(point, launcher, requeued, capfd):
    sweep = Sweep("two", point.target.parent, [point, dataclasses.replace(point, target=point.target.with_stem("b"))])
    launcher(meets("USR1", "exit 75"))
    assert runner.run_here(sweep, retry_failed=False, requeue=True) == 1
    assert requeued() == 0
    assert [standing(each).state for each in sweep.points] == ["failed", "missing"]
    said = capfd.readouterr().err
    assert "no checkpoint was written in this turn" in said
    assert "nothing was finished and no checkpoint written, so the job is not requeued" in said

    again = f"[ -e $1 ] || exec cp {GOLDEN} $1\n" + meets("USR1", "exit 75")
    launcher(again)
    assert runner.run_here(sweep, retry_failed=True, requeue=True) == 75
    assert requeued() == 1
    assert [standing(each).state for each in sweep.points] == ["done", "missing"]


def test_a_point_that_failed_meanwhile_is_not_run(point, launcher, monkeypatch):
    """By another runner, or by the same array submitted twice; a requeued job does not mind its own earlier life."""
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    sweep = Sweep("one", point.target.parent, [point])
    found = runner.survey(sweep)
    launcher("exit 3")
    assert runner.run_one(sweep, 1, retry_failed=False, requeue=True) == 1
    monkeypatch.setattr(runner, "survey", lambda _: dict(found))  # of before that
    assert runner.run_here(sweep, retry_failed=False, requeue=False) == 1
    assert runner.run_one(sweep, 1, retry_failed=False, requeue=True) == 1
    assert point.beside(".log").read_text().count(" UTC, ") == 1
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert runner.run_one(sweep, 1, retry_failed=False, requeue=True) == 1
    assert point.beside(".log").read_text().count(" UTC, ") == 2


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (b"mpiexec -n 2 ...\nd_psgd: --split labels: classes is 1; it must be at least 5\n", "d_psgd: --split labels"),
        (
            b"mpiexec\nTraceback:\n  x\nValueError: no\n=====\n=   BAD END\n",
            "ValueError: no",
        ),
        (b"mpiexec\nsrun: error: n0: task 0: Killed\n", "srun: error: n0: task 0: Killed"),
        (b"mpiexec\n", "no output"),
    ],
)
def test_the_reason_of_a_failure_is_the_line_that_says_most(log, reason):
    assert points._reason(log).startswith(reason)


def test_the_time_left_is_that_of_the_points_to_come(tmp_path, monkeypatch, capsys):
    """Known from repetitions where there are any, else from the mean."""
    text = 'programs = ["d_psgd", "allreduce_sgd"]\nworkers = 2\nrepetitions = 2\n'
    todo = load(described(tmp_path, text)).points
    report = runner.Report(4, 0, todo)
    now = 0.0
    left = []
    for point, took in zip(todo, (10.0, 2.0, 12.0, 2.0), strict=True):
        monkeypatch.setattr(runner.time, "monotonic", lambda: now)  # noqa: B023
        report.starts(point)
        now += took
        report.ended(point, Standing("done"))
        left.append(report._left())
    assert left == [30.0, 12.0, 2.0, 0.0]
    said = capsys.readouterr().err
    assert "1/4 done in 10.0 s, 30 s left: d_psgd -n 2" in said
