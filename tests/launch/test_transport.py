"""Messages between hosts: two of them on this machine, which Hydra and MPI tell apart by their names."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import LIMIT_S

from outpace.benchmarks.machine import launcher, transport
from outpace.benchmarks.trace.run import Run

OUTPACE = str(Path(sys.executable).parent / "outpace")
HOSTS = "localhost,127.0.0.1"
UCX = {"MPIR_CVAR_CH4_NETMOD": "ucx"}
REMEDY = "set MPIR_CVAR_CH4_NETMOD=ofi FI_PROVIDER=tcp in place of MPIR_CVAR_CH4_NETMOD=ucx"


@pytest.fixture(autouse=True)
def none_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*transport.CHOICES, *transport.ELSEWHERE):
        monkeypatch.delenv(name, raising=False)


def run(folder: Path, program: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A short run of 5 ranks on two hosts."""
    elsewhere = {"OUTPACE_LAUNCHER": f"{launcher.mpiexec()[0]} -hosts {HOSTS} -ppn 3", "MPIEXEC_TIMEOUT": "60"}
    line = [OUTPACE, "run", program, "-n", "5", "--problem", "quadratic:dim=4", "--epochs", "0.1", "--out", "run.h5"]
    return subprocess.run(
        line, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, env=os.environ | elsewhere | environment
    )


def test_asynchronous_run_over_two_hosts(tmp_path: Path) -> None:
    done = run(tmp_path, "a_psgd", {})
    assert done.returncode == 0, done.stderr
    assert Run(tmp_path / "run.h5").attrs["status"] == "complete"


@pytest.mark.long
def test_transport_that_loses_messages_is_refused(tmp_path: Path) -> None:
    """As the wheel's UCX does. If a later one does not, this fails, and the choice in transport.py can go."""
    done = run(tmp_path, "a_psgd", UCX)
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()[1:]
    assert said == f"a_psgd: between hosts, messages from any source do not arrive in a second thread; {REMEDY}"
    assert not list(tmp_path.iterdir())
    done = run(tmp_path, "allreduce_sgd", UCX)  # needs no such messages
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("environment", "code"), [({}, 0), (UCX, 2)], ids=["default", "ucx"])
def test_doctor_between_two_hosts(environment: dict[str, str], code: int) -> None:
    line = [OUTPACE, "doctor", "--nodes", HOSTS]
    done = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT_S, env=os.environ | environment)
    said = " ".join(done.stdout.split())
    assert done.returncode == code, done.stderr
    assert "nodes ok 2 rank(s) in one world, on 2 node(s)" in said
    assert ("messages ok" in said, REMEDY in said) == (code == 0, code == 2)


@pytest.mark.parametrize(("environment", "said"), [(UCX, "lost"), (transport.LIBFABRIC_TCP, "arrived")])
def test_the_program_of_the_document(tmp_path: Path, environment: dict[str, str], said: str) -> None:
    """docs/transports.md: the loss without anything of ours."""
    document = Path(__file__).parents[2] / "docs" / "transports.md"
    (tmp_path / "lost.py").write_text(re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)[0])
    line = [*launcher.mpiexec(), "-hosts", HOSTS, "-ppn", "1", "-n", "2", sys.executable, "lost.py"]
    done = subprocess.run(
        line, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, env=os.environ | environment
    )
    assert done.stdout == f"{said} - still here: False\n"
