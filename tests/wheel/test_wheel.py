"""The built wheel, in an environment of its own, used from another folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 300


def run(*line: object, cwd: Path, **environment: str) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(word) for word in line],
        cwd=cwd,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_holds_every_module_and_nothing_else(wheel: Path) -> None:
    """A folder forgotten in `packages` works in an editable install and is missing here."""
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("algorithms", "benchmarks", "comm", "jobscripts"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".cu", ".typed", ".sbatch", ".env", ".toml") and "__pycache__" not in path.parts:
                assert f"outpace/{path.relative_to(ROOT)}" in names
    assert all(name.startswith(("outpace/", "outpace-")) for name in names), "a top-level package of a common name"


def test_runs_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    environment, work = tmp_path / "environment", tmp_path / "work"
    (work / "comm").mkdir(parents=True)  # a user's own package of that name must not be found first
    (work / "comm" / "__init__.py").write_text("raise ImportError('the wrong comm')")
    run(sys.executable, "-m", "venv", environment, cwd=work)
    run(environment / "bin" / "python", "-m", "pip", "install", "--quiet", f"{wheel}[mpich]", cwd=work)
    outpace = environment / "bin" / "outpace"
    said = run(outpace, "run", "ad_psgd", "-n", "2", "--epochs", "2", "--out", "run.h5", cwd=work)
    assert "wrote run.h5" in said
    assert "AD-PSGD" in run(outpace, "show", "run.h5", cwd=work)
    run(outpace, "plot", "loss-time", "run.h5", "-o", "loss.png", cwd=work)
    assert (work / "loss.png").stat().st_size > 10_000
    assert "outpace run ad_psgd -n 4 " in run(outpace, "sweep", "laptop", "--dry-run", cwd=work)
    assert "mine/sweep.sbatch" in run(outpace, "jobscripts", "mine", cwd=work)
