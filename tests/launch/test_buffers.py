"""Large messages of the mpich wheel's MPI."""

import subprocess
import sys

import mpi4py
import pytest

from outpace.benchmarks.machine import buffers, launcher

CODE = "from mpi4py import MPI; from outpace.benchmarks.machine import buffers; print(buffers.touched(MPI.COMM_WORLD))"


def pages(monkeypatch: pytest.MonkeyPatch, tunables: str | None) -> int:
    monkeypatch.delenv(buffers.VARIABLE, raising=False)
    if tunables is not None:
        monkeypatch.setenv(buffers.VARIABLE, tunables)
    line = [launcher.mpiexec()[0], "-n", "2", sys.executable, "-m", "mpi4py", "-c", CODE]
    done = subprocess.run(line, env=launcher.environment(2), capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])


@pytest.mark.skipif(not buffers.default({}), reason=f"{mpi4py.__file__} does not lie beside the mpich wheel")
def test_buffers_are_kept_from_call_to_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the 8,192 pages of the vector are cleared anew in every call where the user has it so."""
    assert pages(monkeypatch, None) <= buffers.FEW
    assert pages(monkeypatch, "") > 2000
