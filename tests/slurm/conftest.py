"""The tests' own Slurm, one for all of them."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, SlurmSweep, missing


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if lacking := missing():
        pytest.skip(f"no Slurm can be started here; missing: {lacking}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: a socket's path has at most 107 characters
    try:
        running = Cluster(folder)
        try:
            yield running
        finally:
            running.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def job(cluster: Cluster, tmp_path: Path) -> SlurmSweep:
    return SlurmSweep(cluster, tmp_path)
