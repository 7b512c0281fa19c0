"""Sweeps before anything runs: expansion, ids, presets, errors."""

import importlib
import itertools
import os
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sweeps import BASE, SMALL, described, flag

from outpace.benchmarks.problems import digits, splits
from outpace.benchmarks.running.plan import make_plan, parse_flags
from outpace.benchmarks.sweeps.description import load, presets, programs
from outpace.benchmarks.sweeps.manifest import manifest
from outpace.comm.errors import UserError


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


def test_presets_of_links():
    """Every program meets each rate with both models, without and with a slow worker, and each slow link."""
    found = {
        name: Counter(
            tuple(flag(point, name) for name in ("--links", "--stragglers", "--problem"))
            for point in load(Path(name)).points
        )
        for name in ("bandwidth", "slow-link")
    }
    rates = ["none", *(f"all:rate={rate}" for rate in ("1gbit", "100mbit", "20mbit"))]
    models = [f"quadratic:dim={dim}" for dim in (25_000, 1_000_000)]  # of float32: 0.1 and 4 MB
    delays = ["none", "fixed:rank=0,factor=10"]
    slow = [f"fixed:rank=0,factor={factor},others=1gbit" for factor in (2, 10, 100)]
    programs = 8
    assert found["bandwidth"] == dict.fromkeys(itertools.product(rates, delays, models), programs)
    assert found["slow-link"] == dict.fromkeys(((links, None, models[1]) for links in (rates[1], *slow)), programs)


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
    (BASE + "repetitions = 1_000_000_000", "1000000000 points, before exclusions; a sweep has at most 100000"),
    (
        BASE + f"repetitions = 1000\n[flags]\nepochs = {list(range(1, 1001))}\nstep-size = {list(range(1, 1001))}",
        "1000000000 points, before exclusions",
    ),
    (BASE + f"repetitions = 1{'0' * 30}", "repetitions: a whole number of 100 bits; the largest has 63"),
    (BASE + f"repetitions = 1{'0' * 5000}", "Exceeds the limit (4300 digits)"),
    (BASE + f"[flags]\nepochs = [0x{'f' * 5000}]", "flags.epochs: a whole number of 20000 bits"),
    (BASE + f"[flags]\nepochs = {'[' * 5000}1{']' * 5000}", "arrays or tables are nested too deeply"),
    (BASE.replace("2", "100_000_000"), "workers must be a whole number of at least 1 and at most 8192"),
    (BASE + '[flags]\nproblem = "digits\\n"', "flags.problem: 'digits\\n' holds a character that cannot be printed"),
    (BASE + '[flags]\nproblem = "digits\\u0000"', "flags.problem: 'digits\\x00' holds a character"),
    (BASE + '[flags]\nproblem = "digits\\u2028"', "flags.problem: 'digits\\u2028' holds a character"),
    (BASE + '"a\\nb" = 1', "a key: 'a\\nb' holds a character"),
    (BASE + 'folder = "a\\tb"', "folder: 'a\\tb' holds a character"),
    (BASE + "folder = '--overwrite'", "folder: --overwrite begins with a dash"),
    (BASE + "folder = '~nobody-of-this-name/runs'", "folder: '~nobody-of-this-name/runs' names a user or a variable"),
    (BASE + "folder = '$NO_SUCH_VARIABLE/runs'", "folder: '$NO_SUCH_VARIABLE/runs' names a user or a variable"),
    (BASE + "[flags]\ngeometry = '--overwrite'", "[flags]: geometry is '--overwrite'; it must be true or false"),
    (BASE + "[flags]\nstragglers = '--overwrite'", "--stragglers: unknown name '--overwrite'"),
    (BASE + "[flags]\nstep-size = 1\nstep_size = 2", "[flags]: step-size is given twice, with - and with _"),
    (BASE.replace("2", "1") + "[[exclude]]\nworkers = true", "[[exclude]] number 1 fits no point"),
    (BASE + "[flags]\nseed = true", "[flags]: seed is True; it must be a text or a number"),
    (BASE + "[flags]\nepochs = [1, true]", "[flags]: epochs is True; it must be a text or a number"),
    ('programs = ["-m.py"]\nworkers = 2', "programs: unknown program '-m.py'"),
    (BASE + "[flags]\nsplit = 'labels:classes=4'", "with 2 workers it must be at least 5"),
    (BASE + "[flags]\nproblem = 'quadratic:dim=4'\nsplit = 'labels'", "the data of this problem has no labels"),
    (BASE + "[flags]\nproblem = 'quadratic:dim=4,samples=1'", "2 workers are too many for 1 samples"),
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
    (BASE + "[slurm]\nthrottle = 0", "throttle is 0; it must be a number of at least 1"),
    (BASE + "[slurm]\njob = 'mine'", "[slurm]: job-name is set by the sweep itself"),
    (BASE + "[slurm]\n'time=5 --wait' = true", "[slurm]: 'time=5 --wait' is no option of sbatch"),
    (BASE + "[slurm]\n'comment=x' = 1", "[slurm]: 'comment=x' is no option of sbatch"),
    (BASE + "[slurm]\npartition = true", "[slurm]: partition needs a value; without one may stand contiguous"),
    (BASE + '[slurm]\ncomment = "a\\n#SBATCH --wait"', "slurm.comment: 'a\\n#SBATCH --wait' holds a character"),
    (BASE + "[slurm]\nchdir = '/tmp'", "[slurm]: chdir is set by the sweep itself"),
    (BASE + "[slurm]\ntime = '00:02:00'", "time is 00:02:00, 120 s; it must be more than the 120 s before the limit"),
    (BASE + "[slurm]\ntime = 00:01:30", "time is 00:01:30, 90 s; it must be more than the 120 s"),
    (BASE + "[slurm]\ntime = 1", "time is 1, 60 s; it must be more than the 120 s"),
    (BASE + "[slurm]\ntime = '0-0:1'\nsignal = 'B:USR1'", "time is 0-0:1, 60 s; it must be more than the 60 s"),
    (BASE + f"[slurm]\ntime = '{5000 * '9'}'", "Slurm's forms are MINUTES, "),
    (BASE + f"[slurm]\nsignal = 'B:USR1@{5000 * '9'}'", "it must be of the form B:USR1@SECONDS"),
    (BASE + "[slurm]\ntime = 'soon'", "time is 'soon'; Slurm's forms are MINUTES, "),
    (BASE + "[slurm]\nsignal = 'B:USR1@soon'", "signal is 'B:USR1@soon'; it must be of the form B:USR1@SECONDS"),
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


def test_a_folder_is_named_as_to_a_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    for text, folder in (("~/runs", "home/runs"), ("$HOME/runs", "home/runs"), ("${SCRATCH}/100 %", "scratch/100 %")):
        (point,) = load(described(tmp_path, BASE + f"folder = '{text}'")).points
        assert point.target.parent == tmp_path / folder


def test_what_a_split_refuses_is_told_for_the_seed_that_meets_it(tmp_path):
    """A split drawn at random leaves a worker without a sample for some seeds; the run refuses it in the same words."""
    text = 'programs = ["d_psgd"]\nworkers = 16\n[flags]\nsplit = "dirichlet:alpha=0.01"\nseed = '
    refused = set()
    for seed in range(4):
        train, _ = digits.images(seed)
        try:
            splits.deal("dirichlet:alpha=0.01", train.labels, 16, seed)
        except UserError as error:
            refused.add(seed)
            with pytest.raises(UserError, match=re.escape(str(error))):
                load(described(tmp_path, f"{text}{seed}"))
        else:
            load(described(tmp_path, f"{text}{seed}"))
    assert refused


def test_two_points_of_one_id_are_named(tmp_path):
    text = BASE + "[flags]\nproblem = ['quadratic:dim=4', 'quadratic:dim=4,condition=10']"
    with pytest.raises(UserError, match=r"two points are the same run, id [0-9a-f]{16}") as refused:
        load(described(tmp_path, text))
    assert "quadratic:dim=4'" in str(refused.value)
    assert "quadratic:dim=4,condition=10'" in str(refused.value)


def test_a_byte_order_mark_is_no_part_of_the_description(tmp_path):
    plain = described(tmp_path, BASE)
    (tmp_path / "marked.toml").write_text(plain.read_text(), encoding="utf-8-sig")
    assert [point.flags for point in load(tmp_path / "marked.toml").points] == [
        point.flags for point in load(plain).points
    ]


def test_unreadable_files(tmp_path):
    with pytest.raises(UserError, match="no such preset; presets: bandwidth, cifar10-stragglers, heterogeneity, "):
        load(tmp_path / "nowhere.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"cannot read .*binary\.toml: not a text file"):
        load(tmp_path / "binary.toml")
    with pytest.raises(UserError):
        load(tmp_path / ("x" * 300))
    with pytest.raises(UserError, match="cannot read /dev/zero: it is a device"):
        load(Path("/dev/zero"))


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
