"""What a run's flags make of its identity."""

import subprocess
import sys
from pathlib import Path

import pytest

from outpace.benchmarks.running import plain_flags
from outpace.benchmarks.running.plan import Launch, Plan, _by_tyro, make_plan, parse_flags
from outpace.benchmarks.sweeps.programs import config_of
from outpace.comm.errors import UserError


def plan(name: str, *flags: str, ranks: int = 2) -> Plan:
    return make_plan(name, *parse_flags(name, config_of(name), flags), ranks)


def test_ids_are_those_from_before_there_were_so_many_flags() -> None:
    """Sweeps and checkpoints of that time go on."""
    assert plan("d_psgd", "--problem", "quadratic:dim=4").config_id == "6bf9dfbc6f1871eb"
    slow = ("--problem", "digits", "--stragglers", "fixed:rank=0,factor=10", "--seed", "3", "--links", "none")
    assert plan("a_psgd", *slow).config_id == "dab5b74b657cb2a7"


def test_the_order_of_d_psgd_is_part_of_the_id() -> None:
    ids = [plan("d_psgd", "--order", order).config_id for order in ("consensus", "adapt-combine")]
    assert ids[0] == plan("d_psgd").config_id != ids[1]


@pytest.mark.parametrize(("graph", "hops"), [("ring", 4), ("static-exponential", 3), ("one-peer", 3)])
def test_nobody_waits_for_the_agreement_on_the_end(graph: str, hops: int) -> None:
    """It comes once everybody has heard of everybody, on graphs of any kind."""
    assert plan("d_psgd", "--topology", graph, ranks=8).hops == hops


def test_links_are_part_of_the_id() -> None:
    made = [
        plan("d_psgd", "--links", links) for links in ("none", "all:rate=1gbit", "all:rate=1000mbit", "all:rate=1mbit")
    ]
    assert [each.texts["links"] for each in made] == ["none", "all:rate=1gbit", "all:rate=1gbit", "all:rate=1mbit"]
    assert made[1].config_id == made[2].config_id
    assert len({each.config_id for each in made}) == 3


def test_nccl_is_part_of_the_id() -> None:
    made = [plan("ad_psgd", "--backend", "cupy", *fabric) for fabric in ([], ["--fabric", "mpi"], ["--fabric", "nccl"])]
    assert made[0].config_id == made[1].config_id != made[2].config_id


@pytest.mark.parametrize(
    ("name", "flags", "reason"),
    [
        ("d_psgd", ["--backend", "cupy"], "does not carry what d_psgd sends"),
        ("allreduce_sgd", [], "--backend is auto; it must be cupy"),
        ("allreduce_sgd", ["--backend", "numpy"], "--backend is numpy; it must be cupy"),
        ("ad_psgd", ["--simulate", "10gbit"], "--simulate has no GPUs"),
        ("sign_sgd", ["--backend", "cupy", "--device-messages", "staged"], "--device-messages is staged"),
        ("local_sgd", ["--backend", "cupy", "--links", "all:rate=1gbit"], "go past the --links"),
    ],
)
def test_what_nccl_cannot_carry_is_refused(name: str, flags: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        plan(name, "--fabric", "nccl", *flags)


def test_simulated_ranks_behind_links_are_as_many_as_one_likes() -> None:
    """Real ones need an address each behind one switch."""
    behind = ("--links", "fixed:rank=999,rate=1gbit", "--compute-time", "0.1")
    assert plan("d_psgd", *behind, "--simulate", "10gbit", ranks=1000).n == 1000
    with pytest.raises(UserError, match="at most 253 have an address"):
        plan("d_psgd", *behind, ranks=1000)
    with pytest.raises(UserError, match="it must be at most 998"):
        plan("d_psgd", *behind, "--simulate", "10gbit", ranks=999)


def test_servers_have_links_too() -> None:
    """Three ranks, the last of them the server."""
    assert plan("a_psgd", "--links", "fixed:rank=2,rate=1mbit", ranks=3).layout.servers == 1
    with pytest.raises(UserError, match="--links fixed: rank is 3; it must be at most 2, the last rank"):
        plan("a_psgd", "--links", "fixed:rank=3,rate=1mbit", ranks=3)


@pytest.mark.parametrize(("flags", "steps"), [((), 64), (("--overlap",), 128)])
def test_who_sends_every_h_steps_agrees_on_the_end_as_seldom(flags: tuple[str, ...], steps: int) -> None:
    """More often, and the agreement would make the workers wait for one another within a round."""
    made = plan("local_sgd", "--problem", "quadratic:dim=4", "--period", "64", *flags)
    assert made.period == made.hops == steps  # hops: where steps are long


PROGRAMS = ("allreduce_sgd", "ad_psgd", "sign_sgd", "katyusha_x", "local_sgd")
PLAIN = (
    "",
    "--problem quadratic:dim=4 --epochs 3 --out a=b.h5 --overwrite",
    "--seed=3 --step-size 1e-3 --batch-size 8 --compute-time=0.5 --dtype float64",
    "--step_size 0.5 --no-overwrite --geometry --time-budget 2 --scratch /tmp --split=labels:classes=2",
)
NOT_PLAIN = (
    "--epochs",
    "--epochs 1 --epochs 2",
    "--overwrite=1",
    "--seed 1e3",
    "--out --overwrite",
    "--out -x.h5",
    "--dtype float16",
    "--epochs None",
    "--no-epochs 1",
    "overwrite",
    "--lr 1",
    "--help",
)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("line", PLAIN)
def test_plain_flags_mean_what_they_mean_to_tyro(program: str, line: str) -> None:
    Config, arguments = config_of(program), line.split()
    found = plain_flags.read([Config, Launch], arguments)
    assert found == list(_by_tyro(program, Config, arguments, quiet=False))


@pytest.mark.parametrize("line", NOT_PLAIN)
def test_what_is_not_plain_is_left_to_tyro(line: str) -> None:
    assert plain_flags.read([config_of("allreduce_sgd"), Launch], line.split()) is None


def loaded(code: str) -> set[str]:
    """The modules that a Python has loaded after this code."""
    code = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_start_loads_what_it_needs() -> None:
    """The command launches, and needs no array. A rank of the commonest run needs neither the parser that explains
    flags, nor what draws, reads HDF5, asks packages for versions, or other problems than its own."""
    assert not loaded("import outpace.benchmarks.command") & {"numpy", "mpi4py.MPI", "rich", "importlib.metadata"}
    rank = loaded(
        "from outpace.algorithms import allreduce_sgd as program\n"
        "from outpace.benchmarks.running.plan import make_plan, parse_flags\n"
        "make_plan('allreduce_sgd', *parse_flags('allreduce_sgd', program.Config, ['--epochs', '1']), 2)"
    )
    assert not rank & {"tyro", "rich", "h5py", "importlib.metadata", "sklearn", "numba", "scipy"}
    assert "outpace.benchmarks.problems.digits" in rank
    assert "outpace.benchmarks.problems.pca" not in rank


def test_a_launch_and_a_whole_run_load_what_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What starts the launcher has read no trace and no sweep; what writes a trace on rank 0 needs no masked arrays,
    which NumPy's own operations on sets would load."""
    words = "--problem", "quadratic:dim=3", "--epochs", "0.1", "--out", str(tmp_path / "run.h5")
    line = f"command.main(['run', 'allreduce_sgd', '-n', '1', *{words}])"
    with monkeypatch.context() as patch:
        patch.setenv("OUTPACE_LAUNCHER", "true")  # which ends at once, ...
        patch.setenv("UCX_TLS", "tcp")  # ... and no MPI is asked which transport it needs
        command = loaded(f"from outpace.benchmarks import command\n{line}")
    assert not command & {"numpy", "mpi4py.MPI", "rich", "h5py", "importlib.metadata"}
    rank = loaded(
        f"sys.argv[1:] = {words}\n"
        "from outpace.algorithms import allreduce_sgd as program\n"
        "try:\n    program.main(program.run, program.Config)\nexcept SystemExit:\n    pass"
    )
    assert (tmp_path / "run.h5").exists()
    assert not rank & {"numpy.ma", "tyro", "rich", "sklearn", "numba", "scipy", "matplotlib"}
