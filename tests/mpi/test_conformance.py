"""One table of all programs, one contract for all of them. A new program is one row."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cuda_on_cpu
import device_on_cpu
import harness
import numpy as np
import pytest
from harness import CheckedComm
from mpi4py import MPI
from reference import allreduce_sgd as allreduce_form
from reference import choco_sgd as choco_sgd_form
from reference import d2 as d2_form
from reference import d_psgd as d_psgd_form
from reference import gossip_local_sgd as gossip_local_sgd_form
from reference import gradient_tracking as gradient_tracking_form
from reference import katyusha_x as katyusha_x_form
from reference import local_sgd as local_sgd_form
from reference import powersgd as powersgd_form
from reference import quantized_sgd as quantized_sgd_form
from reference import sgp as sgp_form
from reference import sign_sgd as sign_sgd_form
from reference import svrg as svrg_form
from simple_network import on_ranks

from outpace.algorithms import (
    a_psgd,
    ad_psgd,
    allreduce_sgd,
    choco_sgd,
    d2,
    d_psgd,
    eamsgd,
    gossip_local_sgd,
    gradient_tracking,
    katyusha_x,
    local_sgd,
    m_sync_sgd,
    powersgd,
    quantized_sgd,
    ringmaster_asgd,
    sgp,
    sign_sgd,
    svrg,
)
from outpace.benchmarks.conformance import contracts
from outpace.benchmarks.conformance.row import Row, configurations, ring_allreduce
from outpace.benchmarks.conformance.verdict import NotApplicable
from outpace.comm import arrays, nccl, sign, topology
from outpace.comm.agreement import on_root
from outpace.comm.errors import UserError

STEPS_DOWN = "step:at=0.1+0.2,factor=0.7,warm-up=0.05"  # within contracts.STEPS, for any number of workers
# Graphs without one symmetric matrix.
DIRECTED = (
    *((n, {"topology": "static-exponential"}) for n in (2, 3, 4)),
    *((n, {"topology": "one-peer"}) for n in (2, 3, 4)),
)

ROWS = [
    Row(
        allreduce_sgd,
        synchronous=True,
        cost=lambda n, dim, degrees: ring_allreduce(n, 8 * dim),
        reference=allreduce_form,
        variants=(
            {},
            {"step_size": 0.3, "schedule": "cosine", "sampling": "shuffle", "weight_decay": 0.01},
            {"rule": "momentum", "step_size": 0.2, "schedule": STEPS_DOWN, "weight_decay": 0.01},
            {"rule": "adam", "sampling": "shuffle"},
            {"rule": "adamw", "schedule": STEPS_DOWN, "weight_decay": 0.3},
        ),
    ),
    Row(
        local_sgd,
        synchronous=True,
        cost=lambda n, dim, degrees: ring_allreduce(n, 8 * dim),
        reference=local_sgd_form,
        work=local_sgd_form.work,
        spread=False,  # between two averages workers go each their own way
        variants=(
            {"period": 3},
            {"period": 1, "step_size": 0.3, "schedule": "cosine", "sampling": "shuffle", "weight_decay": 0.01},
            {"period": 3, "rule": "adamw", "weight_decay": 0.1, "outer": "nesterov", "outer_momentum": 0.5},
            {"period": 5, "outer": "nesterov", "outer_step_size": 0.5, "schedule": STEPS_DOWN, "sampling": "shuffle"},
            {"period": 3, "overlap": True},
            {
                "period": 3,
                "rule": "adam",
                "outer": "nesterov",
                "outer_momentum": 0.5,
                "overlap": True,
                "step_size": 0.05,
            },
        ),
        refused=((2, {"schedule": "linear"}),),
    ),
    Row(
        gossip_local_sgd,
        synchronous=True,
        # In the 8 rounds of contracts.STEPS; of an odd number of workers one has no partner.
        cost=lambda n, dim, degrees: 8 * dim * gossip_local_sgd_form.exchanges(n, rounds=8) / 8,
        reference=gossip_local_sgd_form,
        work=gossip_local_sgd_form.work,
        spread=False,
        variants=(
            {"period": 3},
            {"period": 3, "rule": "adamw", "weight_decay": 0.1, "outer": "nesterov", "sampling": "shuffle"},
            {
                "period": 5,
                "outer": "nesterov",
                "outer_step_size": 0.5,
                "outer_pull": 0.9,
                "step_size": 0.3,
                "schedule": STEPS_DOWN,
            },
        ),
        refused=((3, {"schedule": "linear"}),),
    ),
    Row(
        d_psgd,
        synchronous=True,
        cost=lambda n, dim, degrees: 8 * dim * degrees,
        reference=d_psgd_form,
        gossip=True,
        refused=((3, {"topology": "hypercube"}), (3, {"topology": "random-regular:degree=3"})),
        variants=(
            {},
            {"step_size": 0.3, "schedule": STEPS_DOWN, "sampling": "shuffle"},
            {"order": "adapt-combine", "step_size": 0.3, "schedule": STEPS_DOWN},
        ),
    ),
    Row(
        sign_sgd,
        synchronous=True,
        cost=lambda n, dim, degrees: np.full(n, 2 * (n - 1) * 4 * sign.words(dim, n)),
        reference=sign_sgd_form,
        work=sign_sgd_form.work,
        spread=False,  # a majority is no mean
        variants=(
            {"step_size": 0.3},
            {"step_size": 0.3, "ties": "keep", "exchange": "server", "weight_decay": 0.01, "sampling": "shuffle"},
            {"step_size": 0.3, "ties": "plus", "exchange": "int8"},
            {"step_size": 0.05, "schedule": "constant", "variant": "signum", "momentum": 0.5, "ties": "keep"},
            {
                "step_size": 0.3,
                "variant": "signum",
                "warm_up": True,
                "momentum": 0.2,
                "exchange": "int8",
                "ties": "keep",
            },
            {"step_size": 0.3, "ties": "abstain"},
            {"step_size": 0.1, "ties": "abstain", "variant": "signum", "momentum": 0.5, "exchange": "server"},
            {"step_size": 0.1, "ties": "abstain", "vote": "sum", "exchange": "int8"},
            {"step_size": 0.1, "vote": "sum"},
            {"vote": "sum", "exchange": "server"},
            {"step_size": 0.1, "vote": "sum", "exchange": "int8", "weight_decay": 0.01},
            {"step_size": 0.3, "vote": "none", "variant": "signum", "weight_decay": 0.01, "decay": "coupled"},
            {"step_size": 0.3, "schedule": STEPS_DOWN, "weight_decay": 0.01, "decay": "coupled"},
            {"step_size": 0.3, "batches": "growing", "batch_size": 2, "sampling": "shuffle", "variant": "signum"},
            {"step_size": 0.3, "schedule": "constant", "variant": "ef-signsgd", "weight_decay": 0.01},
            {"step_size": 0.3, "schedule": "constant", "variant": "ef-signsgd", "exchange": "server"},
            {"step_size": 1.0, "variant": "ef-signsgd", "ties": "keep"},
            {"step_size": 0.3, "schedule": "constant", "variant": "ef-signsgd", "vote": "sum"},
            {"step_size": 0.3, "schedule": "constant", "variant": "ef-signsgd", "vote": "none"},
            {"step_size": 0.1, "variant": "lion", "weight_decay": 0.01},
            {"variant": "lion", "beta1": 0.5, "beta2": 0.8, "ties": "abstain", "vote": "sum", "exchange": "int8"},
            {"step_size": 0.3, "variant": "lion", "beta1": 0.5, "beta2": 0.8, "vote": "none"},
            {"step_size": 0.3, "variant": "sto-sign"},
            {"step_size": 0.1, "variant": "sto-sign", "vote": "sum", "exchange": "server"},
            {"step_size": 0.3, "variant": "sto-sign", "bound": 0.25, "exchange": "int8", "ties": "keep"},
            {"step_size": 0.3, "variant": "sto-sign", "vote": "none", "sampling": "shuffle"},
        ),
        refused=(
            (2, {"variant": "ef-signsgd", "exchange": "int8"}),
            (2, {"variant": "ef-signsgd", "ties": "abstain"}),
            (2, {"variant": "sto-sign", "ties": "abstain"}),
            (2, {"vote": "none", "ties": "abstain"}),
            (3, {"adversaries": "flip:rank=3"}),
            (4, {"adversaries": "random:rank=0", "vote": "none"}),
            (2, {"batches": "growing", "schedule": "step:at=1"}),
            (2, {"batches": "growing", "schedule": "sqrt:warm-up=1"}),
        ),
    ),
    Row(
        quantized_sgd,
        synchronous=True,
        cost=lambda n, dim, degrees: np.full(n, (n - 1) * (4 * 4 * sign.words(dim) + 8)),
        reference=quantized_sgd_form,
        variants=(
            {},
            {"codec": "qsgd:levels=2,norm=max", "sampling": "shuffle"},
            {"codec": "terngrad"},
            {"codec": "terngrad:shared=1", "step_size": 0.3, "schedule": STEPS_DOWN},
        ),
        refused=((2, {"codec": "qsgd:levels=128"}), (3, {"codec": "terngrad:levels=1"})),
    ),
    Row(
        powersgd,
        synchronous=True,
        # of a model of two rows: a column of it and a row of it
        cost=lambda n, dim, degrees: ring_allreduce(n, 8 * 2) + ring_allreduce(n, 8 * dim // 2),
        reference=powersgd_form,
        matrices=True,
        variants=(
            {"rank": 1, "momentum": 0.0},
            {"rank": 1, "momentum": 0.5, "step_size": 0.1, "schedule": STEPS_DOWN, "sampling": "shuffle"},
            {"momentum": 0.9, "step_size": 0.03},
        ),
        refused=((2, {"schedule": "linear"}),),
    ),
    Row(
        svrg,
        synchronous=True,
        cost=lambda n, dim, degrees: ring_allreduce(n, 8 * dim),
        reference=svrg_form,
        work=svrg_form.work,
        variants=(
            {"batch_size": 512, "step_size": 0.2},
            {"batch_size": 400, "step_size": 0.2, "sampling": "stratified", "prox": "l1:weight=1e-3"},
            {"batch_size": 400, "step_size": 0.2, "epoch_length": "fixed:m=2"},
            {"batch_size": 400, "step_size": 0.2, "epoch_length": "fixed:m=4,option=II"},
        ),
        refused=(
            (3, {"prox": "l1:weight=-1"}),
            (2, {"prox": "elastic"}),
            (2, {"epoch_length": "fixed"}),
            (3, {"epoch_length": "fixed:m=2,option=III"}),
        ),
    ),
    Row(
        katyusha_x,
        synchronous=True,
        cost=lambda n, dim, degrees: ring_allreduce(n, 8 * dim),
        reference=katyusha_x_form,
        work=katyusha_x_form.work,
        variants=(
            {"batch_size": 512, "step_size": 0.2, "sigma": 0.1},
            {"batch_size": 512, "step_size": 0.2, "variant": "w", "prox": "l2:weight=1e-3"},
            {"batch_size": 400, "step_size": 0.2, "sigma": 0.1, "sampling": "stratified", "prox": "ball:radius=9"},
        ),
        refused=((2, {"application": "svd"}), (3, {"application": "newton"})),
    ),
    Row(
        ad_psgd,
        synchronous=False,
        # At most one exchange per gradient, a model each way, and one batch of tickets.
        cost=lambda n, dim, degrees: (0, 2 * 8 * dim + 64) if n > 1 else (0, 0),
        gossip=True,
        fits=topology.bipartite,
        refused=((3, {"topology": "ring"}), (5, {"topology": "ring"}), (4, {"topology": "complete"}), *DIRECTED),
        variants=({}, {"step_size": 0.3, "schedule": STEPS_DOWN, "sampling": "shuffle"}),
    ),
    Row(
        d2,
        synchronous=True,
        cost=lambda n, dim, degrees: 8 * dim * degrees,
        reference=d2_form,
        gossip=True,
        fits=lambda W: topology.smallest_eigenvalue(W) > -1 / 3 + 1e-9,
        refused=((3, {"topology": "hypercube"}), (4, {"topology": "ring"}), (8, {"topology": "ring"}), *DIRECTED),
        variants=({}, {"schedule": "sqrt", "step_size": 0.5, "sampling": "shuffle"}),
    ),
    Row(
        gradient_tracking,
        synchronous=True,
        cost=lambda n, dim, degrees: 2 * 8 * dim * degrees,
        reference=gradient_tracking_form,
        gossip=True,
        refused=((3, {"topology": "hypercube"}),),
        variants=({}, {"schedule": "sqrt", "step_size": 0.3, "sampling": "shuffle"}),
    ),
    Row(
        sgp,
        synchronous=True,
        cost=lambda n, dim, degrees: 8 * (dim + 1) * degrees,
        reference=sgp_form,
        gossip=True,
        refused=((3, {"topology": "hypercube"}),),
        variants=({}, {"step_size": 0.3, "schedule": STEPS_DOWN, "sampling": "shuffle"}),
    ),
    Row(
        choco_sgd,
        synchronous=True,
        cost=lambda n, dim, degrees: (8 + 4 * sign.words(dim)) * degrees,
        reference=choco_sgd_form,
        gossip=True,
        refused=((2, {"compressor": "rand-k"}), (3, {"compressor": "top-k:share=2"}), (3, {"topology": "hypercube"})),
        variants=(
            {"consensus_step_size": 0.5},
            {"compressor": "identity", "consensus_step_size": 1.0, "schedule": STEPS_DOWN, "step_size": 0.3},
            {"sampling": "shuffle"},
            {"compressor": "top-k:share=0.2", "consensus_step_size": 0.4},
            {"compressor": "qsgd", "consensus_step_size": 0.7, "schedule": "sqrt", "step_size": 0.3},
            {"compressor": "qsgd:levels=1"},
        ),
    ),
    Row(
        a_psgd,
        synchronous=False,
        cost=lambda n, dim, degrees: (2 * 8 * dim, 2 * 8 * dim),  # a gradient, a model
        variants=({}, {"servers": 2, "step_size": 0.3, "schedule": STEPS_DOWN, "sampling": "shuffle"}),
    ),
    Row(
        eamsgd,
        synchronous=False,
        # With period 1 a model each way, and at most a batch of tickets.
        cost=lambda n, dim, degrees: (2 * 8 * dim, 2 * 8 * dim + 64),
        variants=({"period": 1}, {"period": 4, "sampling": "shuffle"}, {"period": 1, "servers": 2}),
    ),
    Row(
        m_sync_sgd,
        synchronous=False,
        cost=lambda n, dim, degrees: (2 * 8 * dim, 2 * 8 * dim),  # a gradient and a model, dropped or not
        work=lambda cfg, n_total, n, rounds: (rounds, rounds * cfg.of_a_round(n) * cfg.batch_size),
        refused=((2, {"m": 2}), (4, {"m": 4, "late": "apply"}), (3, {"schedule": "linear"})),
        variants=({}, {"m": 1, "late": "apply", "step_size": 0.3, "schedule": STEPS_DOWN, "sampling": "shuffle"}),
    ),
    Row(
        ringmaster_asgd,
        synchronous=False,
        cost=lambda n, dim, degrees: (2 * 8 * dim, 2 * 8 * dim),  # as a_psgd
        refused=((3, {"variant": "ringleader", "threshold": 4}),),
        variants=(
            {},
            {"threshold": 3, "servers": 2, "step_size": 0.3, "schedule": STEPS_DOWN, "sampling": "shuffle"},
            {"variant": "ringleader", "step_size": 0.2},  # as many updates as the slowest worker's gradients
            {"variant": "ringleader", "step_size": 0.2, "servers": 2, "sampling": "shuffle"},
        ),
    ),
]


ON_GPUS = [pytest.param(name, marks=pytest.mark.gpu) for name in ("cupy", "nccl")]


@pytest.fixture(autouse=True, params=["numpy", "emulated", *ON_GPUS])
def backend(request: pytest.FixtureRequest, folder: Path) -> Iterator[None]:
    """The table on NumPy, on a GPU where there is one, and in part by NCCL and on a device that the CPU plays."""
    row, world = request.node.callspec.params["row"], MPI.COMM_WORLD
    test = "test_equals_its_matrix_form" if row.reference is not None else "test_learns_and_counts"
    if request.param in ("emulated", "nccl") and (request.node.originalname != test or world.size != 2):
        pytest.skip("2 ranks, one test of each program: the emulated device is slow, and NCCL's start")
    with pytest.MonkeyPatch.context() as patch:
        if request.param in ("cupy", "nccl"):
            if reason := arrays.no_device():
                pytest.skip(f"this process {reason}")
            patch.setattr(harness, "backend", arrays.load("cupy", world))
        elif request.param == "emulated":
            if cuda_on_cpu.COMPILER is None:
                pytest.skip("no C++ compiler to run the CUDA files on the CPU")
            patch.setattr(harness, "backend", device_on_cpu.install(patch, folder))
        if request.param != "nccl":
            yield
            return
        if not row.program.Config.by_nccl:
            pytest.skip("NCCL does not carry what it sends")
        try:
            nccl.connect(world)
        except UserError as reason:
            pytest.skip(str(reason))
        yield
        nccl.disconnect(world)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Of this rank alone."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


by_row = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])


def hold(contract: Callable[..., None], comm: CheckedComm, row: Row, **options: Any) -> None:
    try:
        contract(comm, row, harness.backend, **options)
    except NotApplicable as reason:
        pytest.skip(f"{row.name}: {reason}")


@by_row
def test_equals_its_matrix_form(comm: CheckedComm, row: Row) -> None:
    steps = 5 if isinstance(harness.backend, device_on_cpu.Cupy) else contracts.STEPS
    hold(contracts.equals_its_reference, comm, row, steps=steps)


@pytest.mark.ranks(1, 2, 3, 4)
@by_row
def test_learns_and_counts(comm: CheckedComm, row: Row) -> None:
    hold(contracts.learns_and_counts, comm, row)


@by_row
def test_repeats_exactly(comm: CheckedComm, row: Row) -> None:
    hold(contracts.repeats_exactly, comm, row)


@pytest.mark.ranks(1, 2, 4)
@by_row
def test_goes_on_from_a_checkpoint(comm: CheckedComm, row: Row) -> None:
    hold(contracts.goes_on_from_a_checkpoint, comm, row)


@by_row
def test_refuses_on_every_rank(comm: CheckedComm, row: Row) -> None:
    hold(contracts.refuses_on_every_rank, comm, row)


@by_row
def test_two_halves_at_once(comm: CheckedComm, row: Row) -> None:
    hold(contracts.runs_in_two_halves, comm, row)


@by_row
def test_bytes_are_the_documented_cost(comm: CheckedComm, row: Row) -> None:
    hold(contracts.sends_what_its_cost_says, comm, row)


@by_row
def test_snapshots_are_taken_before_the_update(comm: CheckedComm, row: Row) -> None:
    hold(contracts.shows_the_model_before_each_update, comm, row)


@by_row
def test_averaging_alone_keeps_the_mean(comm: CheckedComm, row: Row) -> None:
    hold(contracts.keeps_the_mean, comm, row)


@pytest.mark.ranks(2)
@by_row
def test_no_step_allocates_a_vector(comm: CheckedComm, row: Row) -> None:
    hold(contracts.allocates_no_vector_per_step, comm, row)


# Of several orders in which a sum of floats can be taken, MPI chooses one; the others have none, or sum integers.
SUMS_IN_SOME_ORDER = {"allreduce_sgd", "local_sgd", "powersgd", "svrg", "katyusha_x"}


@pytest.mark.ranks(4)
@by_row
def test_simulated_ranks_end_with_the_models_of_mpi(comm: CheckedComm, row: Row) -> None:
    if not row.synchronous:
        pytest.skip(f"{row.name}: asynchronous, so its models depend on times")
    problem, config = row.problem(contracts.PROBLEM), configurations(row, comm.size)[0]
    real = comm.allgather(harness.execute(comm, row.program, harness.share(comm, problem), contracts.STEPS, **config).x)

    def simulated() -> list[np.ndarray]:
        everyone = harness.shares(problem, 4)

        def one(ranks: CheckedComm) -> np.ndarray:
            return harness.execute(ranks, row.program, everyone[ranks.rank], contracts.STEPS, **config).x

        return on_ranks(4, one)

    there = comm.bcast(on_root(comm, simulated))
    apart = np.abs(np.array(real) - np.array(there)).max()
    assert apart <= (1e-12 if row.name in SUMS_IN_SOME_ORDER else 0.0)


ON_SIMULATED_RANKS = (  # the equality with MPI, above, has the models
    contracts.leaves_no_message,
    contracts.sends_what_its_cost_says,
    contracts.refuses_on_every_rank,
)


@pytest.mark.ranks(1)
@pytest.mark.parametrize("contract", ON_SIMULATED_RANKS, ids=lambda contract: contract.__name__)
@by_row
def test_holds_on_simulated_ranks(row: Row, contract: Callable[..., None]) -> None:
    if contract is contracts.sends_what_its_cost_says and not row.synchronous:
        pytest.skip(f"{row.name}: a gradient that takes no time meets no message of the others")
    try:
        on_ranks(4, contract, row)
    except NotApplicable as reason:
        pytest.skip(f"{row.name}: {reason}")
