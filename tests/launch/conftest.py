"""Tests that start whole jobs from outside, as a user or a scheduler does."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jobs import LIMIT_S, Job, alive

from outpace.benchmarks.machine import launcher, namespaces
from outpace.comm.errors import UserError


@pytest.fixture(scope="session")
def links_here() -> None:
    """Skip where this machine cannot have slow links: not root, no iproute2, another MPI, a kernel without them."""
    try:
        line = [*namespaces.inside("all:rate=1gbit", 1), *launcher.mpiexec(), "-n", "1", "true"]
    except UserError as error:
        pytest.skip(str(error))
    done = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT_S, env=launcher.environment(1))
    if done.returncode:
        pytest.skip(done.stderr.strip())


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """start(program, ranks, *flags, outpace=False): launch it, with --out in the test's own folder."""
    jobs: list[Job] = []

    def launch(
        program: str, ranks: int, *flags: str, outpace: bool = False, folder: Path = tmp_path, name: str = "run.h5"
    ) -> Job:
        target = folder / name
        arguments = [*flags, *([] if "--out" in flags else ["--out", str(target)])]
        line = (
            [str(Path(sys.executable).parent / "outpace"), "run", program, "-n", str(ranks), *arguments]
            if outpace
            else launcher.command(f"outpace.algorithms.{program}", ranks, arguments)
        )
        environment = launcher.environment(ranks) | {"MPIEXEC_TIMEOUT": str(LIMIT_S)}
        process = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
        )
        jobs.append(Job(process, target))
        return jobs[-1]

    yield launch
    for job in jobs:
        if job.process.poll() is None:
            job.process.kill()
        for pid in job.pids().values():
            if alive(pid):
                os.kill(pid, 9)
