"""Bad input: one line, exit code 2, no file left, whatever the program."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import LIMIT_S

from outpace.benchmarks.machine.launcher import command, environment
from outpace.benchmarks.running.plan import parse_flags
from outpace.benchmarks.sweeps.programs import config_of, programs
from outpace.comm.errors import UserError

QUADRATIC = ["--problem", "quadratic:dim=4"]
CASES = [
    (3, ["--problem", "imagenet"], "--problem: unknown name 'imagenet'; allowed: digits, quadratic"),
    (2, ["--problem", "quadratic:dim=4,size=3"], "--problem quadratic: unknown key 'size'; allowed: dim, condition"),
    (2, ["--problem", "quadratic"], "--problem quadratic: needs dim="),
    (2, ["--problem", "quadratic:dim=0"], "--problem quadratic: dim is 0; it must be at least 1"),
    (2, ["--split", "random"], "--split: unknown name 'random'; allowed: iid, labels"),
    (2, ["--problem", "digits", "--split", "labels:classes=2"], "it must be at least 5"),
    (2, ["--stragglers", "slow:rank=1"], "--stragglers: unknown name 'slow'; allowed: none, fixed"),
    (2, ["--stragglers", "fixed:rank=1,factor=0"], "--stragglers fixed: factor is 0"),
    (2, ["--stragglers", "fixed:rank=2,factor=10"], "rank"),
    (2, ["--topology", "moebius"], "--topology: unknown name 'moebius'; allowed: ring, path"),
    (3, ["--topology", "ring"], "odd cycle"),
    (3, ["--topology", "hypercube"], "power of two"),
    (2, ["--problem", "quadratic:dim=4,samples=1"], "2 workers are too many for 1 samples"),
    (2, ["--step-size", "0"], "--step-size is 0; it must be more than 0"),
    (2, ["--step-size", "-1"], "--step-size is -1; it must be more than 0"),
    (2, ["--step-size", "nan"], "--step-size is nan"),
    (2, ["--epochs", "0"], "--epochs is 0; it must be more than 0"),
    (2, ["--batch-size", "-5"], "--batch-size is -5; it must be at least 1"),
    (2, ["--time-budget", "-1"], "--time-budget is -1; it must be more than 0"),
    (2, ["--out", "nowhere/run.h5"], "--out: the folder nowhere does not exist"),
    (2, ["--out", "é" * 110 + ".h5"], "--out: the file's name has 223 bytes; it must have at most "),
    (2, ["--out", "x" * 300], "--out: the file's name has 300 bytes; it must have at most "),
    (2, ["--out", "y" * 300 + "/run.h5"], "File name too long"),
    (2, ["--out", "z/" * 2100 + "run.h5"], "File name too long"),
    (2, ["--out", "r\udce9sultat.h5"], "'r\\udce9sultat.h5' is not UTF-8"),
    (2, ["--out", "."], "--out: . is a folder, a link, a device or a pipe"),
    (2, ["--out", "..", "--overwrite"], "--out: .. is a folder, a link, a device or a pipe"),
    (2, ["--backend", "cupy"], "--backend cupy: rank 0 has"),
    (2, ["--epochs", "1e308"], "--epochs is 1e+308; it must be more than 0 and at most 1000000000"),
    (2, ["--evaluations", "1000000000"], "--evaluations is 1000000000; it must be at least 1 and at most 100000"),
    (2, ["--problem", "quadratic:dim=2e9"], "--problem quadratic:dim=2e9: its 2 ranks on "),
    (2, ["--problem", "logistic:samples=1e9,dim=1e9"], "need about 1.6e+04 PB of memory; "),
    (2, ["--batch-size", "1000000000000000"], "of memory; "),
    (2, ["--problem", "libsvm:path=/dev/zero"], "cannot read /dev/zero: it is a device, not a regular file"),
    (2, ["--problem", "pca:data=/tmp"], "cannot read /tmp: it is a folder, not a regular file"),
    (2, ["--topology", "file:path=/dev/zero"], "cannot read /dev/zero: it is a device, not a regular file"),
    (2, ["--stragglers", "trace:file=/dev/zero"], "/dev/zero: it is a device, not a regular file"),
    (2, ["--ranks", "3"], "this launch has 2 rank(s), but --ranks or OUTPACE_RANKS asks for 3"),
]


FINITE_SUMS = [
    ("katyusha_x", ["--problem", "digits"], "--sigma is needed: this problem does not know its strong convexity"),
    ("svrg", ["--prox", "l1:weight=0"], "--prox l1: weight is 0; it must be more than 0"),
    ("svrg", ["--problem", "libsvm:path=bad.txt"], "bad.txt, line 2: not of the form 'label index:value ...'"),
    ("katyusha_x", ["--problem", "logistic:samples=9,dim=2,penalty=nonconvex"], "the objective is not convex"),
    ("katyusha_x", ["--application", "svd"], "--application svd does not fit the problem; allowed: svd"),
]

SCHEDULES = [
    ("sign_sgd", ["--schedule", "inverse-sqrt"], "--schedule: unknown name 'inverse-sqrt'; allowed: constant, sqrt"),
    ("d_psgd", ["--schedule", "cosine", "--time-budget", "9"], "--schedule cosine: the run's length is not known"),
    ("a_psgd", ["--schedule", "cosine", "--time-budget", "9"], "--schedule cosine: the run's length is not known"),
]


def launch(
    ranks: int, flags: list[str], folder: Path, program: str = "ad_psgd", **more: str
) -> subprocess.CompletedProcess[str]:
    line = command(f"outpace.algorithms.{program}", ranks, flags)
    return subprocess.run(
        line, env=environment(ranks) | more, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S
    )


@pytest.mark.parametrize(("ranks", "flags", "said"), CASES, ids=[ascii(" ".join(case[1]))[:60] for case in CASES])
def test_refused(tmp_path: Path, ranks: int, flags: list[str], said: str) -> None:
    done = launch(ranks, [*QUADRATIC, *flags] if "--problem" not in flags else flags, tmp_path)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, lines  # from one rank only
    assert said in lines[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("program", "flags", "said"), FINITE_SUMS, ids=[" ".join(case[1]) for case in FINITE_SUMS])
def test_refused_by_svrg_and_katyusha_x(tmp_path: Path, program: str, flags: list[str], said: str) -> None:
    (tmp_path / "bad.txt").write_text("+1 1:0.5\n-1 oops\n")
    done = launch(2, [*QUADRATIC, *flags] if "--problem" not in flags else flags, tmp_path, program)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert said in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["bad.txt"]


@pytest.mark.parametrize(
    ("program", "flags", "said"), SCHEDULES, ids=[" ".join([case[0], *case[1]]) for case in SCHEDULES]
)
def test_refused_schedules(tmp_path: Path, program: str, flags: list[str], said: str) -> None:
    done = launch(2, [*QUADRATIC, *flags], tmp_path, program)
    assert done.returncode == 2, done.stderr
    # The machine may be busy with other tests, which is a line as well.
    lines = [line for line in done.stderr.strip().splitlines() if "other processes keep" not in line]
    assert len(lines) == 1, lines
    assert said in lines[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("program", programs())
@pytest.mark.parametrize("seed", [-1, 2**32, 10**30])
def test_seeds_are_refused_by_every_program(program: str, seed: int) -> None:
    with pytest.raises(UserError, match=f"--seed is {seed}; it must be at least 0 and at most 4294967295"):
        parse_flags(program, config_of(program), ["--seed", str(seed)])


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe"])
def test_what_is_no_file_stays(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "run.h5"
    if kind == "pipe":
        os.mkfifo(out)
    else:
        out.symlink_to("far.h5")
        if kind == "link":
            (tmp_path / "far.h5").write_text("precious")
    before = {path.name: path.lstat().st_ino for path in tmp_path.iterdir()}
    for flags in ([], ["--overwrite"]):
        done = launch(2, [*QUADRATIC, "--out", str(out), *flags], tmp_path)
        assert done.returncode == 2
        assert "run.h5 is a folder, a link, a device or a pipe, which no trace replaces" in done.stderr
    assert {path.name: path.lstat().st_ino for path in tmp_path.iterdir()} == before


def test_the_longest_name_serves_to_the_end_and_one_byte_more_is_refused(tmp_path: Path) -> None:
    refused = launch(2, [*QUADRATIC, "--out", "x" * 255], tmp_path)
    allowed = int(refused.stderr.rpartition("at most ")[2].split()[0])
    assert 200 <= allowed < 255
    flags = [*QUADRATIC, "--epochs", "3", "--checkpoint-every", "0.01"]
    done = launch(2, [*flags, "--out", "x" * (allowed + 1)], tmp_path)
    assert done.returncode == 2
    assert f"has {allowed + 1} bytes; it must have at most {allowed}" in done.stderr
    assert list(tmp_path.iterdir()) == []
    done = launch(2, [*flags, "--compute-time", "0.02", "--out", "x" * allowed], tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x" * allowed]


def test_a_path_with_no_room_for_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(*["d" * 200] * 20, "e" * 50)
    folder.mkdir(parents=True)
    room = os.pathconf(tmp_path, "PC_PATH_MAX") - len(str(folder / "run.h5"))
    assert len(".part-0") < room < len(".part-0.state-1.unfinished")
    done = launch(2, [*QUADRATIC, "--out", str(folder / "run.h5")], tmp_path)
    assert done.returncode == 2
    assert "File name too long" in done.stderr
    assert list(folder.iterdir()) == []


def test_unknown_flag_is_said_once(tmp_path: Path) -> None:
    done = launch(3, ["--lr", "0.1"], tmp_path)
    assert done.returncode == 2
    assert (done.stdout + done.stderr).count("--lr") <= 2  # tyro's box names it, from rank 0 alone
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "run.h5"
    out.write_text("precious")
    done = launch(2, [*QUADRATIC, "--out", str(out)], tmp_path)
    assert done.returncode == 2
    assert "exists; name another file or add --overwrite" in done.stderr
    assert out.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [out]
    assert launch(2, [*QUADRATIC, "--out", str(out), "--overwrite"], tmp_path).returncode == 0
    assert out.read_bytes()[1:4] == b"HDF"


def test_leftover_parts_are_kept(tmp_path: Path) -> None:
    (tmp_path / "run.h5.part-0").write_text("what a killed run left")
    done = launch(2, [*QUADRATIC, "--out", str(tmp_path / "run.h5")], tmp_path)
    assert done.returncode == 2
    assert "parts of a killed run" in done.stderr
    assert (tmp_path / "run.h5.part-0").read_text() == "what a killed run left"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = launch(2, [*QUADRATIC, "--out", str(tmp_path / "run.h5")], Path.cwd())
    assert done.returncode == 2
    assert "is not writable" in done.stderr


@pytest.mark.parametrize(("name", "value"), [("SLURM_STEP_NUM_TASKS", "4"), ("PMI_SIZE", "4"), ("OUTPACE_RANKS", "4")])
def test_singletons_are_refused(tmp_path: Path, name: str, value: str) -> None:
    """As `srun --mpi=none` starts them: every process is a world of size 1."""
    line = [sys.executable, "-m", "mpi4py", "-m", "outpace.algorithms.allreduce_sgd", *QUADRATIC]
    clean = {key: text for key, text in os.environ.items() if not key.startswith(("PMI", "OMPI", "SLURM", "OUTPACE"))}
    clean["PYTHONSAFEPATH"] = "1"
    processes = [
        subprocess.Popen(line, env=clean | {name: value}, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        _, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 2
        assert value in err
        assert "1" in err
    assert list(tmp_path.iterdir()) == []


def test_smaller_point_in_a_larger_allocation(tmp_path: Path) -> None:
    """One rank by mpiexec inside a step of four: the launcher's own count is the one that holds."""
    done = launch(1, [*QUADRATIC, "--epochs", "1"], tmp_path, SLURM_STEP_NUM_TASKS="4", SLURM_NTASKS="4")
    assert done.returncode == 0, done.stderr
