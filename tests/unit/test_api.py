"""The Python interface that is documented: its names are there, and its example runs."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import FENCE, text_of
from made_traces import SLOW, simulate

TEXT = text_of("docs/api.md")


def test_the_example_runs(tmp_path: Path) -> None:
    """On traces of two programs and two levels, in a process of its own, as a notebook is one."""
    (example,) = (block for language, block in FENCE.findall(TEXT) if language == "python")
    folder = tmp_path / "results" / "runs" / "race"
    folder.mkdir(parents=True)
    attributes = {"hostnames": ["a"] * 4, "wall_s": 1.0, "progress_wait_s": []}
    for program, progress in (("allreduce_sgd", "none"), ("ad_psgd", "wait-free")):
        for name, level in (("equal", "none"), ("slow", SLOW)):
            simulate(
                folder / f"{program}-{name}.h5", program, stragglers=level, progress=progress, steps=40, **attributes
            )
    line = [sys.executable, "-W", "error", "-c", example]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "allreduce_sgd-slow.h5 1 compute" in done.stdout
    assert "allreduce_sgd-equal.h5 " not in done.stdout
    assert {path.name for path in tmp_path.glob("*.png")} == {"loss-time.png", "mine.png"}


def test_every_name_of_the_table_is_there() -> None:
    rows = re.findall(r"^\| (`.*) \| `(outpace[\w.]+)` \|$", TEXT, re.MULTILINE)
    assert len(rows) == 9
    for what, module in rows:
        for name in re.findall(r"`(\w+)(?:\(|`)", what):
            assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"


@pytest.mark.parametrize(
    ("typed", "wanted"), [("expl", "explain"), ("race --ep", "--epochs"), ("plot --leg", "--legend")]
)
def test_a_shell_completes_commands_and_options(typed: str, wanted: str) -> None:
    outpace = Path(sys.executable).parent / "outpace"
    printed = subprocess.run([outpace, "--print-completion", "bash"], capture_output=True, text=True, check=True)
    words = ["outpace", *typed.split()]
    ask = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_outpace; echo ${{COMPREPLY[@]}}"
    line = ["bash", "-c", f"{printed.stdout}\n{ask}"]
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=os.environ)
    assert wanted in done.stdout.split()
