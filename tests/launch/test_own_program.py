"""A program of one's own: a file anywhere, or, as part of the suite, three places and no fourth."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import LIMIT_S

from outpace.benchmarks.machine import launcher
from outpace.benchmarks.sweeps.description import load
from outpace.benchmarks.sweeps.point import standing
from outpace.benchmarks.trace.inspection import validate
from outpace.benchmarks.trace.run import Run

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
FLAGS = ["--problem", "quadratic:dim=3", "--epochs", "0.5", "--evaluations", "2"]

PROGRAM = '''"""Model averaging: every worker makes a step of its own, then all take the mean of their models.

    x_{k+1} = (1/n) sum_i (x_k - gamma grad F_i(x_k; xi_{k,i}))

Every worker holds the same model. Each step waits for the slowest of all workers.
Cost per step at the busiest rank: one Allreduce of dim numbers.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main
from outpace.comm.arrays import copy, twin
from outpace.comm.spec import PositiveFloat, PositiveInt, Seed
from outpace.comm.streams import BATCHES


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat = 0.2  # gamma
    batch_size: PositiveInt = 16  # samples per gradient of one worker
    halved: bool = False  # gamma / 2
    dtype: Literal["float32", "float64"] = "float32"  # of model and messages
    seed: Seed = 0  # of data order, batches and delays

    @property
    def title(self):
        return "Half averaging" if self.halved else "Model averaging"


def run(comm, problem, cfg, budget, trace):
    """One worker; collective over comm. Returns the model x, shape (dim,)."""
    rng = np.random.default_rng([BATCHES, cfg.seed, comm.rank])
    x = problem.x0()
    g = problem.xp.empty_like(x)
    x_wire = twin(x, comm)
    budget.keep(x=x, rng=rng)
    for _ in budget:
        batch = rng.integers(problem.n_samples, size=cfg.batch_size)
        problem.gradient(x, batch, g)
        g *= cfg.step_size / (2 if cfg.halved else 1)
        trace.snapshot(x)
        x -= g
        copy(x, x_wire)
        with trace.phase("allreduce", nbytes=x.nbytes):
            comm.Allreduce(MPI.IN_PLACE, x_wire)
        copy(x_wire, x)
        x /= comm.size
        trace.record()
    return x


if __name__ == "__main__":
    main(run, Config)
'''

ROW = """ROWS = [
    Row(
        my_sgd,
        synchronous=True,
        cost=lambda n, dim, degrees: ring_allreduce(n, 8 * dim),
    ),
"""

SECTION = "\n## my_sgd\n\nEvery worker makes a step of its own, then all take the mean of their models.\n"


def do(folder: Path, *line: str, **more: str) -> str:
    """Run the command in the folder; what it printed. It must succeed."""
    environment = {key: value for key, value in launcher.environment(2).items() if key != "OUTPACE_RANKS"} | more
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def outpace(folder: Path, *words: str, **more: str) -> str:
    return do(folder, sys.executable, "-m", "outpace.benchmarks.command", *words, **more)


def drawn(figure: Path) -> str:
    """The text of a figure, which SVG keeps as text."""
    return figure.read_text().replace("\u00a0", " ")


@pytest.mark.parametrize("safe", ["1", ""])
@pytest.mark.parametrize("more", [[], ["--simulate", "10gbit", "--compute-time", "0.001"]], ids=["real", "simulated"])
def test_a_file_finds_what_lies_beside_it_and_on_the_users_path(tmp_path: Path, safe: str, more: list[str]) -> None:
    imported = "import beside, first, second\n\nfrom dataclasses import dataclass\n"
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "my_sgd.py").write_text(PROGRAM.replace("from dataclasses import dataclass\n", imported))
    for name in ("own/beside", "a/first", "b/second"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").touch()
    folders = [f"{tmp_path}/a", f"{tmp_path}/b", *filter(None, [os.environ.get("PYTHONPATH")])]
    path = {"PYTHONPATH": os.pathsep.join(folders), "PYTHONSAFEPATH": safe}
    outpace(tmp_path, "run", "own/my_sgd.py", "-n", "2", *FLAGS, *more, "--out", "run.h5", **path)
    assert Run(tmp_path / "run.h5").name == "Model averaging"


def test_a_file_of_the_user_runs_sweeps_and_plots_under_its_title(tmp_path: Path) -> None:
    (tmp_path / "my_sgd.py").write_text(PROGRAM)
    outpace(tmp_path, "run", "./my_sgd.py", "-n", "2", *FLAGS, "--out", "run.h5")
    validate(tmp_path / "run.h5")
    run = Run(tmp_path / "run.h5")
    assert (run.name, run.attrs["algorithm"]) == ("Model averaging", "my_sgd")
    assert run.attrs["command"] == "mpiexec -n 2 python -m mpi4py ./my_sgd.py " + " ".join([*FLAGS, "--out run.h5"])

    (tmp_path / "sweep.toml").write_text(
        f'programs = ["./my_sgd.py", "allreduce_sgd"]\nworkers = 2\nfolder = "{tmp_path}/runs"\n'
        '[flags]\nproblem = "quadratic:dim=3"\nepochs = 0.5\nevaluations = 2\n'
        '[program."./my_sgd.py"]\nhalved = [false, true]\n'
    )
    outpace(tmp_path, "sweep", "sweep.toml")
    here = Path.cwd()
    try:
        os.chdir(tmp_path)
        points = load(Path("sweep.toml")).points
    finally:
        os.chdir(here)
    assert [standing(point).state for point in points] == ["done"] * 3
    runs = [Run(point.target) for point in points]
    assert [run.attrs["config_id"] for run in runs] == [point.id for point in points]
    assert sorted(run.name for run in runs) == ["AllReduce-SGD", "Half averaging", "Model averaging"]
    (same,) = (run for run in runs if run.name == "Model averaging")
    assert same.path.name == f"my_sgd-2-{same.attrs['config_id']}.h5"

    outpace(tmp_path, "plot", "loss-time", *(str(run.path) for run in runs), "-o", "loss.svg")
    for run in runs:
        assert f">{run.name}<" in drawn(tmp_path / "loss.svg")


def test_the_command_in_a_trace_runs_again(tmp_path: Path) -> None:
    """And comes to the same model: that of a file, and that of a program of the suite, whose file may lie elsewhere."""
    (tmp_path / "my_sgd.py").write_text(PROGRAM)
    for program, started in (("./my_sgd.py", "./my_sgd.py"), ("allreduce_sgd", "-m outpace.algorithms.allreduce_sgd")):
        outpace(tmp_path, "run", program, "-n", "2", *FLAGS, "--out", "run.h5", "--overwrite")
        first = Run(tmp_path / "run.h5")
        x, command = first.column("model", "x_mean"), first.attrs["command"]
        assert command.startswith(f"mpiexec -n 2 python -m mpi4py {started} --problem")
        do(tmp_path, *launcher.mpiexec(), "-n", "2", sys.executable, *command.split()[4:])
        again = Run(tmp_path / "run.h5")
        assert again.attrs["wall_s"] != first.attrs["wall_s"]
        assert (again.column("model", "x_mean") == x).all()


def test_a_changed_copy_of_a_file_is_another_program(tmp_path: Path) -> None:
    """Under the same name: its runs have another id, and no figure draws them as repetitions."""
    file, runs, sweeps = tmp_path / "my_sgd.py", set(), set()
    (tmp_path / "sweep.toml").write_text(
        'programs = ["./my_sgd.py"]\nworkers = 2\n[flags]\nproblem = "quadratic:dim=3"\nepochs = 0.5\n'
    )
    for name, text in (("a", PROGRAM), ("b", PROGRAM.replace("step_size / (2", "step_size / (4"))):
        file.write_text(text)
        outpace(tmp_path, "run", "./my_sgd.py", "-n", "2", *FLAGS, "--out", f"{name}.h5")
        runs.add(Run(tmp_path / f"{name}.h5").attrs["config_id"])
        sweeps.add(outpace(tmp_path, "sweep", "sweep.toml", "--dry-run"))
    assert len(runs) == len(sweeps) == 2
    line = [sys.executable, "-m", "outpace.benchmarks.command", "plot", "loss-time", "a.h5", "b.h5", "-o", "loss.svg"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 2
    assert "differ in the contents of program" in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "unknown program './my_sgd.py': no such file"),
        ("class Config: pass", "./my_sgd.py: no class Config(ProgramConfig) in it"),
        ("import nowhere", "my_sgd.py: cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_a_sweep_says_what_is_wrong_with_a_file(tmp_path: Path, text: str | None, said: str) -> None:
    if text:
        (tmp_path / "my_sgd.py").write_text(text)
    (tmp_path / "sweep.toml").write_text('programs = ["./my_sgd.py"]\nworkers = 2\n')
    line = [sys.executable, "-m", "outpace.benchmarks.command", "sweep", "sweep.toml", "--dry-run"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 2
    (line_said,) = done.stderr.splitlines()
    assert said in line_said


def test_an_algorithm_is_three_places(tmp_path: Path) -> None:
    """In a copy of the checkout: its file, its row in the conformance table, its section in algorithms/README.md."""
    for name in ("algorithms", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("benchmarks", "comm", "jobscripts", "results", "docs", "setup.cfg", "CONTRIBUTING.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    packages = tmp_path / "packages" / "outpace"
    packages.mkdir(parents=True)
    for name in ("algorithms", "benchmarks", "comm", "jobscripts"):
        (packages / name).symlink_to(tmp_path / name)
    here = {"PYTHONPATH": str(packages.parent)}

    (tmp_path / "algorithms" / "my_sgd.py").write_text(PROGRAM)
    table = tmp_path / "tests" / "mpi" / "test_conformance.py"
    text = table.read_text().replace("    katyusha_x,\n", "    katyusha_x,\n    my_sgd,\n", 1)
    table.write_text(text.replace("ROWS = [\n", ROW, 1))
    with open(tmp_path / "algorithms" / "README.md", "a") as readme:
        readme.write(SECTION)

    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    do(tmp_path, *tests, "tests/unit/test_layout.py", **here)
    said = do(tmp_path, *launcher.mpiexec(), "-n", "2", *tests, str(table), "-k", "my_sgd", **here)
    assert " passed" in said

    outpace(tmp_path, "run", "my_sgd", "-n", "2", *FLAGS, "--out", "run.h5", **here)
    assert Run(tmp_path / "run.h5").name == "Model averaging"
    (tmp_path / "sweep.toml").write_text(
        'programs = "all"\nworkers = 2\nfolder = "runs"\n[flags]\nproblem = "quadratic:dim=3"\nepochs = 0.5\n'
        "evaluations = 2\nstep-size = 0.1\n"
    )
    manifest = outpace(tmp_path, "sweep", "sweep.toml", "--dry-run", **here)
    (number,) = (k for k, line in enumerate(manifest.splitlines()) if " outpace run my_sgd " in line)
    outpace(tmp_path, "sweep", "sweep.toml", "--point", str(number), **here)
    (trace,) = (tmp_path / "runs").glob("my_sgd-*.h5")
    outpace(tmp_path, "plot", "loss-time", str(trace), "-o", "loss.svg", **here)
    assert ">Model averaging<" in drawn(tmp_path / "loss.svg")
