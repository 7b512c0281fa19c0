"""The transport between hosts: when one is chosen for the user, and how ranks are put on nodes to test it."""

import pytest

from outpace.benchmarks.machine import any_source, mpiexec, transport
from outpace.comm.errors import UserError

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2"}


@pytest.mark.parametrize(
    "environment",
    [JOB, {"OUTPACE_LAUNCHER": "mpiexec -hosts a,b"}, {"PBS_NODEFILE": "nodes"}, JOB | {"FI_LOG_LEVEL": "warn"}],
)
def test_chosen_where_there_may_be_other_hosts(environment: dict[str, str]) -> None:
    assert transport.default(environment) == transport.LIBFABRIC_TCP


def test_chosen_where_the_caller_knows_of_other_hosts() -> None:
    assert transport.default({}, elsewhere=True) == transport.LIBFABRIC_TCP


@pytest.mark.parametrize(
    "environment",
    [
        {},
        JOB | {"SLURM_JOB_NUM_NODES": "1"},
        JOB | {"MPIR_CVAR_CH4_NETMOD": "ucx"},
        JOB | {"FI_PROVIDER": "verbs"},
        JOB | {"UCX_TLS": "rc"},
    ],
)
def test_left_alone_on_one_host_and_where_the_user_has_chosen(environment: dict[str, str]) -> None:
    assert transport.default(environment) == {}


def test_left_alone_for_another_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "WHEEL", "https://pypi.org/p/another/")
    assert transport.default(JOB) == {}


def test_remedy_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in transport.CHOICES:
        monkeypatch.delenv(name, raising=False)
    settings = "MPIR_CVAR_CH4_NETMOD=ofi FI_PROVIDER=tcp"
    assert any_source._remedy() == f"set {settings}, as `outpace run` does"
    monkeypatch.setenv("UCX_TLS", "tcp")
    assert any_source._remedy() == f"set {settings} in place of UCX_TLS=tcp"
    for name, value in transport.LIBFABRIC_TCP.items():
        monkeypatch.setenv(name, value)
    assert any_source._remedy() == "choose another transport of this MPI"


def test_one_rank_on_each_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    monkeypatch.delenv("OUTPACE_LAUNCHER", raising=False)
    with pytest.raises(UserError, match="--nodes: name the hosts, as in --nodes a,b, or run it in a Slurm job"):
        mpiexec.one_a_node("")
    assert mpiexec.one_a_node("a,b,c") == (3, ["-ppn", "1", "-hosts", "a,b,c"])
    for text in ("two", "²", "-1", "9" * 5000):
        monkeypatch.setenv("SLURM_JOB_NUM_NODES", text)
        with pytest.raises(UserError, match="--nodes: name the hosts"):
            mpiexec.one_a_node("")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "4")
    assert mpiexec.one_a_node("") == (4, ["-ppn", "1"])
    monkeypatch.setenv("OUTPACE_LAUNCHER", "srun --mpi=pmi2")
    assert mpiexec.one_a_node("") == (4, ["--ntasks-per-node=1", "--nodes=4"])
    assert mpiexec.one_a_node("a,b") == (2, ["--ntasks-per-node=1", "--nodes=2", "--nodelist=a,b"])
    monkeypatch.setenv("OUTPACE_LAUNCHER", "/bin/true")
    with pytest.raises(UserError, match=r"not by /bin/true; start `.* -m outpace.benchmarks.machine.doctor --nodes`"):
        mpiexec.one_a_node("")


def test_a_launcher_that_is_no_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTPACE_LAUNCHER", "srun --mpi='pmi2")
    with pytest.raises(UserError, match="OUTPACE_LAUNCHER is srun --mpi='pmi2, no command line: No closing quotation"):
        mpiexec.mpiexec()
    monkeypatch.setenv("OUTPACE_LAUNCHER", " ")
    assert mpiexec.mpiexec()[0].endswith("mpiexec")
