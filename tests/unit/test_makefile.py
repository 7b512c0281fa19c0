"""The targets of the Makefile, in the environments that users have."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_pip_installs_into_the_virtual_environment(tmp_path: Path) -> None:
    """Whatever the user's own pip is set to: in a recipe of the Makefile it knows of no other place."""
    users = {"PIP_USER": "yes", "PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}
    users |= dict.fromkeys(("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"), "elsewhere")
    (tmp_path / "pip.conf").write_text("[install]\nuser = true\n")
    probe = "probe: ; @$(BIN)/python -m pip config list; $(BIN)/python -m pip install --dry-run --no-index pip"
    done = subprocess.run(
        ["make", "--no-print-directory", f"VENV={sys.prefix}", f"--eval={probe}", "probe"],
        cwd=ROOT,
        env=os.environ | users,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Requirement already satisfied: pip" in done.stdout
    assert "elsewhere" not in done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_alone_lists_the_targets_and_run_names_the_command() -> None:
    def make(*words: str) -> str:
        line, env = ["make", "--no-print-directory", *words], os.environ | {"MAKEFLAGS": ""}
        return subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=True).stdout

    listed = dict(line.split(maxsplit=1) for line in make().splitlines())
    assert listed["run"].startswith("the main job")
    assert {"test", "more", "lint", "claims", "mutations"} <= listed.keys()
    assert make("-n", "run").splitlines()[-1].endswith(" .venv/bin/outpace")
    assert "\n    .venv/bin/outpace\n" in (ROOT / "README.md").read_text()
