"""Claims of the papers, each measured by whole launches. `make claims`; they want a machine that is otherwise idle."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from outpace.benchmarks.machine import launcher
from outpace.benchmarks.trace.run import Run


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """launch(program, ranks, *flags): run it to its end, and its trace."""
    folder: Path = tmp_path_factory.mktemp("claims")
    count = 0

    def run(program: str, ranks: int, *flags: object) -> Run:
        nonlocal count
        count += 1
        out = folder / f"{count}.h5"
        line = launcher.command(f"outpace.algorithms.{program}", ranks, [*map(str, flags), "--out", str(out)])
        done = subprocess.run(line, env=launcher.environment(ranks), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return Run(out)

    return run
