"""One table of all programs, one contract for all of them. A new program is one row."""

import functools
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import cuda_on_cpu
import device_on_cpu
import harness
import numpy as np
import pytest
from harness import Allocations, CheckedComm, RandomStart, Shown, execute, share, shares
from mpi4py import MPI
from reference import allreduce_sgd as allreduce_form
from reference import d2 as d2_form
from reference import d_psgd as d_psgd_form
from reference import katyusha_x as katyusha_x_form
from reference import quantized_sgd as quantized_sgd_form
from reference import sign_sgd as sign_sgd_form
from reference import svrg as svrg_form

from outpace.algorithms import (
    a_psgd,
    ad_psgd,
    allreduce_sgd,
    d2,
    d_psgd,
    eamsgd,
    katyusha_x,
    quantized_sgd,
    sign_sgd,
    svrg,
)
from outpace.comm import arrays, sign, topology
from outpace.comm.agreement import on_root
from outpace.comm.server import Layout
from outpace.comm.spec import UserError

GRAPHS = (
    "ring",
    "ring:lazy=1",
    "path",
    "star",
    "complete",
    "torus",
    "hypercube",
    "exponential",
    "random-regular:degree=3",
    "erdos-renyi:p=0.7",
)

STEPS_DOWN = "step:at=0.1+0.2,factor=0.7,warm-up=0.05"  # within STEPS, for any number of workers


@dataclass(frozen=True)
class Row:
    """A program's contract.

    `cost(n, dim, degrees)` is the bytes that each rank sends per round, shape (n,), for dim float64 numbers; for an
    asynchronous program the bytes of all ranks together, per gradient, as a range (least, most). `work(cfg, n_total, n,
    steps)` is the rounds, and the samples in the gradients of all workers, that the steps take.
    """

    program: ModuleType
    synchronous: bool
    cost: Callable[[int, int, np.ndarray], Any]
    reference: ModuleType | None = None
    work: Callable[[Any, int, int, int], tuple[int, int]] = lambda cfg, n_total, n, steps: (steps, steps * n * 16)
    gossip: bool = False  # takes --topology
    spread: bool = True  # finds the minimum of the mean where the workers' own minima differ
    fits: Callable[[np.ndarray], bool] = lambda W: True  # whether the program can use a mixing matrix
    refused: tuple[tuple[int, dict[str, Any]], ...] = ()  # (n, config) that raise UserError on every rank
    variants: tuple[dict[str, Any], ...] = field(default=({},))

    @property
    def pace(self) -> dict[str, Any]:
        """Emulated compute time for asynchronous programs: without it the rank that holds the tickets takes most."""
        return {} if self.synchronous else {"compute_time": 0.001}

    @property
    def name(self) -> str:
        return self.program.__name__.rpartition(".")[2]

    def servers(self, config: dict[str, Any]) -> int:
        """How many of the ranks serve; the others are workers."""
        return config.get("servers", self.program.Config.servers)


def ring_allreduce(n: int, nbytes: int) -> np.ndarray:
    """2(n-1)/n of the vector; chunks are cut at whole bytes."""
    chunks = np.diff(nbytes * np.arange(n + 1) // n)
    return 2 * (nbytes - chunks) if n > 1 else np.zeros(1)


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
        ),
    ),
    Row(
        d_psgd,
        synchronous=True,
        cost=lambda n, dim, degrees: 8 * dim * degrees,
        reference=d_psgd_form,
        gossip=True,
        refused=((3, {"topology": "hypercube"}), (3, {"topology": "random-regular:degree=3"})),
        variants=({}, {"step_size": 0.3, "schedule": STEPS_DOWN, "sampling": "shuffle"}),
    ),
    Row(
        sign_sgd,
        synchronous=True,
        cost=lambda n, dim, degrees: np.full(n, 2 * (n - 1) * 4 * sign.words(dim, n)),
        reference=sign_sgd_form,
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
            {"step_size": 0.1, "vote": "sum"},
            {"vote": "sum", "exchange": "server"},
            {"step_size": 0.1, "vote": "sum", "exchange": "int8", "weight_decay": 0.01},
            {"step_size": 0.3, "vote": "none", "variant": "signum", "weight_decay": 0.01, "decay": "coupled"},
            {"step_size": 0.3, "schedule": STEPS_DOWN, "weight_decay": 0.01, "decay": "coupled"},
            {"step_size": 0.3, "schedule": "constant", "variant": "ef-signsgd", "weight_decay": 0.01},
            {"step_size": 0.3, "schedule": "constant", "variant": "ef-signsgd", "exchange": "server"},
            {"step_size": 1.0, "variant": "ef-signsgd", "ties": "keep"},
            {"step_size": 0.3, "schedule": "constant", "variant": "ef-signsgd", "vote": "sum"},
            {"step_size": 0.3, "schedule": "constant", "variant": "ef-signsgd", "vote": "none"},
        ),
        refused=(
            (2, {"variant": "ef-signsgd", "exchange": "int8"}),
            (3, {"adversaries": "flip:rank=3"}),
            (4, {"adversaries": "random:rank=0", "vote": "none"}),
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
        svrg,
        synchronous=True,
        cost=lambda n, dim, degrees: ring_allreduce(n, 8 * dim),
        reference=svrg_form,
        work=svrg_form.work,
        variants=(
            {"batch_size": 512, "step_size": 0.2},
            {"batch_size": 400, "step_size": 0.2, "sampling": "stratified", "prox": "l1:weight=1e-3"},
        ),
        refused=((3, {"prox": "l1:weight=-1"}), (2, {"prox": "elastic"})),
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
        # Every gradient of an active worker is one exchange, a model each way; half of the workers are active, but
        # which of them computes how much is open. Tickets are 8 bytes there and back.
        cost=lambda n, dim, degrees: (0, 2 * 8 * dim + 16) if n > 1 else (0, 0),
        gossip=True,
        fits=topology.bipartite,
        refused=((3, {"topology": "ring"}), (5, {"topology": "ring"}), (4, {"topology": "complete"})),
    ),
    Row(
        d2,
        synchronous=True,
        cost=lambda n, dim, degrees: 8 * dim * degrees,
        reference=d2_form,
        gossip=True,
        fits=lambda W: topology.smallest_eigenvalue(W) > -1 / 3 + 1e-9,
        refused=((3, {"topology": "hypercube"}), (4, {"topology": "ring"}), (8, {"topology": "ring"})),
        variants=({}, {"schedule": "sqrt", "step_size": 0.5, "sampling": "shuffle"}),
    ),
    Row(
        a_psgd,
        synchronous=False,
        cost=lambda n, dim, degrees: (2 * 8 * dim + 16, 2 * 8 * dim + 16),  # a gradient, a model, a ticket
        variants=({}, {"servers": 2, "step_size": 0.3, "schedule": STEPS_DOWN, "sampling": "shuffle"}),
    ),
    Row(
        eamsgd,
        synchronous=False,
        cost=lambda n, dim, degrees: (2 * 8 * dim + 16, 2 * 8 * dim + 16),  # with period 1
        variants=({"period": 1}, {"period": 4, "sampling": "shuffle"}, {"period": 1, "servers": 2}),
    ),
]
PROBLEM = "quadratic:dim=10,sigma=0.3,zeta=1"
STEPS = 25


def allowed(row: Row, text: str, n: int) -> bool:
    try:
        return row.fits(topology.mixing_matrix(text, n))
    except UserError:
        return False


def configurations(row: Row, n: int) -> list[dict[str, Any]]:
    """What the row is run with on n ranks; skips the test where that is nothing."""
    graphs = [{"topology": text} for text in GRAPHS if allowed(row, text, n)] if row.gossip else [{}]
    variants = [variant for variant in row.variants if row.servers(variant) < n]
    if not variants:
        pytest.skip("no worker beside the server")
    return [{**variant, **graph} for variant in variants for graph in graphs]


@pytest.fixture(autouse=True, params=["numpy", "emulated", pytest.param("cupy", marks=pytest.mark.gpu)])
def backend(request: pytest.FixtureRequest, folder: Path) -> Iterator[None]:
    """The table on NumPy, on a GPU where there is one, and in part on a device that the CPU plays."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "cupy":
            if reason := arrays.no_device():
                pytest.skip(f"this process {reason}")
            patch.setattr(harness, "backend", arrays.load("cupy", MPI.COMM_WORLD))
        elif request.param == "emulated":
            row = request.node.callspec.params["row"]
            test = "test_equals_its_matrix_form" if row.reference is not None else "test_learns_and_counts"
            if request.node.originalname != test or MPI.COMM_WORLD.size != 2:
                pytest.skip("the emulated device is slow: 2 ranks, one test of each program")
            if cuda_on_cpu.COMPILER is None:
                pytest.skip("no C++ compiler to run the CUDA files on the CPU")
            patch.setattr(harness, "backend", device_on_cpu.install(patch, folder))
        yield


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Of this rank alone."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


by_row = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])


@by_row
def test_equals_its_matrix_form(comm: CheckedComm, row: Row) -> None:
    """To 1e-12, on every graph that allows n. Catches a gradient at the wrong model, a wrong weight, a torn buffer."""
    if row.reference is None:
        pytest.skip(f"{row.name} is asynchronous")
    steps = 5 if isinstance(harness.backend, device_on_cpu.Cupy) else STEPS
    for problem in (PROBLEM, "digits:hidden=5"):
        everyone = on_root(comm, functools.partial(shares, problem, comm.size))
        mine = share(comm, problem)
        for config in configurations(row, comm.size):
            x = execute(comm, row.program, mine, steps, **config).x
            cfg = row.program.Config(**config, dtype="float64")
            X = comm.bcast(on_root(comm, functools.partial(row.reference.run, everyone, cfg, steps)))
            np.testing.assert_allclose(x, X[comm.rank], rtol=0, atol=1e-12, err_msg=str(config))


@pytest.mark.ranks(1, 2, 3, 4)
@by_row
def test_learns_and_counts(comm: CheckedComm, row: Row) -> None:
    """The mean model improves, and all workers together compute exactly the gradients of the budget."""
    # Uneven speeds draw an asynchronous program to the fast workers' minima: it gets workers that share one.
    problem = PROBLEM if row.spread and row.synchronous else "quadratic:dim=10,sigma=0.3"
    for config in configurations(row, comm.size):
        servers = row.servers(config)
        n = comm.size - servers
        outcome = execute(
            comm, row.program, share(comm, problem, servers=servers), 40, **row.pace, **{"step_size": 0.1, **config}
        )
        everyone = shares(problem, n)
        loss, start = (sum(f.loss(x) for f in everyone) / n for x in (outcome.mean, everyone[0].x0()))
        assert loss - everyone[0].f_star < 0.2 * (start - everyone[0].f_star)
        assert comm.allreduce(len(outcome.steps)) == 40 * n
        cfg = row.program.Config(**config)
        assert comm.allreduce(outcome.steps["samples"].sum()) == row.work(cfg, everyone[0].n_total, n, 40)[1]
        if row.synchronous:
            assert len(outcome.steps) == 40
            assert outcome.x.shape == (10,)


@by_row
def test_repeats_exactly(comm: CheckedComm, row: Row) -> None:
    """A synchronous program is a function of its seed."""
    if not row.synchronous:
        pytest.skip(f"{row.name} is asynchronous")
    problem, config = share(comm, PROBLEM), row.variants[0]
    first, second = (execute(comm, row.program, problem, STEPS, seed=3, **config).x for _ in range(2))
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-13)
    other = execute(comm, row.program, problem, STEPS, seed=4, **config).x
    assert np.abs(other - first).max() > 1e-3


@pytest.mark.ranks(1, 2, 4)
@by_row
def test_goes_on_from_a_checkpoint(comm: CheckedComm, row: Row) -> None:
    """A synchronous program ends at the same bits, with each of its options: a state that is not kept, or one that
    set-up overwrites, shows. An asynchronous one computes exactly the gradients of its budget."""
    for config in configurations(row, comm.size):
        problem = share(comm, PROBLEM, servers=row.servers(config))
        if row.synchronous:
            x, paused = (execute(comm, row.program, problem, STEPS, pause=pause, **config) for pause in (False, True))
            assert paused.pauses == 1
            np.testing.assert_array_equal(paused.x, x.x, err_msg=str(config))
        else:
            paused = execute(comm, row.program, problem, 40, pause=True, **row.pace, **config)
            n = comm.size - row.servers(config)
            assert paused.pauses >= 1
            assert comm.allreduce(len(paused.steps)) == 40 * n


@by_row
def test_refuses_on_every_rank(comm: CheckedComm, row: Row) -> None:
    """A graph or a number of workers that the program cannot use is an error everywhere, before any message."""
    for n, config in row.refused:
        if n == comm.size:
            with pytest.raises(UserError):
                execute(comm, row.program, share(comm, PROBLEM), STEPS, **config)


@by_row
def test_two_halves_at_once(comm: CheckedComm, row: Row) -> None:
    """Two disjoint communicators run side by side: a program that uses COMM_WORLD mixes them up or hangs."""
    if comm.size not in (2, 4, 8):
        pytest.skip("needs two equal halves that every graph allows")
    half = CheckedComm(MPI.Intracomm(comm).Split(comm.rank % 2))
    config = configurations(row, half.size)[0]
    problem, servers, seed = "quadratic:dim=10", row.servers(config), comm.rank % 2  # each half has its own minimum
    mine = share(half, problem, servers=servers, seed=seed)
    mean = execute(half, row.program, mine, 200, **row.pace, **{**config, "step_size": 0.3}).mean
    x_star = shares(problem, half.size - servers, seed=seed)[0].x_star
    assert np.linalg.norm(mean - x_star) < 0.2 * np.linalg.norm(x_star)
    half.Free()


@by_row
def test_bytes_are_the_documented_cost(comm: CheckedComm, row: Row) -> None:
    """The meter against the formula, to the byte; both are bytes sent."""
    dim, n = 10, comm.size
    for config in configurations(row, n)[: 1 if not row.gossip else None]:
        servers = row.servers(config)
        outcome = execute(comm, row.program, share(comm, PROBLEM, servers=servers), STEPS, agreement=1000, **config)
        W = topology.mixing_matrix(config.get("topology", "complete"), n)
        degrees = (W > 0).sum(axis=1) - 1
        sent = np.array(comm.allgather(outcome.sent.sum()))
        cost = row.cost(n, dim, degrees)
        if row.synchronous:  # and one agreement on the end, a single byte
            rounds, _ = row.work(row.program.Config(**config), 1024, n, STEPS)
            np.testing.assert_array_equal(sent, rounds * cost + ring_allreduce(n, 1), err_msg=str(config))
        else:
            least, most = cost
            gradients = STEPS * (n - servers)
            tickets = 16 * (n - max(1, servers))  # the asks that are told that none is left
            assert least * gradients <= sent.sum() - tickets <= most * gradients


@by_row
def test_snapshots_are_taken_before_the_update(comm: CheckedComm, row: Row) -> None:
    """The k-th is the model that k steps lead to, the first of all the start. Taken after the update, or of another
    vector, it would shift every curve. Of several asynchronous workers only the start is known beforehand."""
    config = configurations(row, comm.size)[0]
    servers = row.servers(config)
    problem, layout = share(comm, PROBLEM, servers=servers), Layout(comm.size - servers, servers)
    models = execute(comm, row.program, problem, 4, recorder=Shown, **config).models
    expected = [arrays.to_host(problem.x0())[layout.held(problem.dim).get(comm.rank, slice(0))]]
    if row.synchronous or layout.workers == 1:
        expected += [execute(comm, row.program, problem, steps, **config).x for steps in (1, 2, 3)]
    assert not row.synchronous or len(models) == 4
    assert comm.allreduce(len(models)) >= 4  # an asynchronous worker may have computed no gradient at all
    known = min(len(models), len(expected))
    np.testing.assert_allclose(models[:known], expected[:known], rtol=0, atol=1e-13)


@by_row
def test_averaging_alone_keeps_the_mean(comm: CheckedComm, row: Row) -> None:
    """With step size 0 from different starts the sum of the models stays and their spread shrinks."""
    if not row.gossip:
        pytest.skip(f"{row.name} averages no models")
    problem = RandomStart(share(comm, PROBLEM), comm.rank)
    for config in configurations(row, comm.size):
        x = execute(comm, row.program, problem, 40, **row.pace, **{**config, "step_size": 0.0}).x
        before, after = (comm.allgather(v) for v in (arrays.to_host(problem.x0()), x))
        scale = sum(np.linalg.norm(v) for v in before)
        assert np.linalg.norm(np.sum(after, axis=0) - np.sum(before, axis=0)) <= 1e-12 * scale
        if comm.size > 1:
            assert np.var(after, axis=0).sum() < 0.2 * np.var(before, axis=0).sum(), config


@pytest.mark.ranks(2)
@by_row
def test_no_step_allocates_a_vector(comm: CheckedComm, row: Row) -> None:
    """Of 4 MB models, nothing as large as a tenth of one is allocated after the first steps, on any rank, by either
    thread: not even a mask of the coordinates."""
    dim = 1 << 19
    for config in configurations(row, comm.size)[:: len(GRAPHS) if row.gossip else 1]:
        problem = share(comm, f"quadratic:dim={dim},samples=64", servers=row.servers(config))
        try:
            peak = execute(comm, row.program, problem, 12, recorder=Allocations, **row.pace, **config).peak
        finally:
            tracemalloc.stop()
        assert peak < 8 * dim / 10, config
        assert comm.allreduce(peak > 0)
