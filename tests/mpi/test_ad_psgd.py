"""What only AD-PSGD promises: conservation, exact budgets, gradients at the model as read, no hang, no wait."""

import functools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from harness import CheckedComm, RandomStart, Rounds, execute, in_time, share, shares
from mpi4py import MPI
from reference import ad_psgd as adpsgd_form
from reference import allreduce_sgd as sgd_form

from outpace.algorithms import ad_psgd, allreduce_sgd
from outpace.benchmarks.trace.recorder import EVENTS, Trace
from outpace.benchmarks.trace.schema import KIND
from outpace.benchmarks.trace.snapshots import Snapshots
from outpace.comm import gossip, topology
from outpace.comm.bfloat16 import WireFormat

SOAK = int(os.environ.get("OUTPACE_SOAK", "20"))  # repetitions of the short run


def exchanges(events: np.ndarray) -> np.ndarray:
    return events[events["kind"] == KIND["exchange"]]


@pytest.mark.ranks(2, 4, 8)
@pytest.mark.parametrize("averaging", ["gradient", "free"])
def test_exchanges_are_their_replay(comm: CheckedComm, averaging: str) -> None:
    """Thousands of exchanges, or as many as the machine allows: the models are the averages of those that the workers
    recorded, and their sum stays, to 1e-12 relative; one-sided averaging and lost updates fail this. And they come
    together."""
    problem = RandomStart(share(comm, "quadratic:dim=32"), comm.rank)
    pace = {"compute_time": 2e-4, "averaging": averaging}

    def once() -> str:
        outcome = execute(comm, ad_psgd, problem, 4000 // comm.size, step_size=0.0, **pace)
        mine = np.sort(exchanges(outcome.events), order="t_start_s")
        before, after = np.stack(comm.allgather(problem.x0())), np.stack(comm.allgather(outcome.x))
        peers, scale = comm.allgather(mine["peer"]), np.linalg.norm(before, axis=1).sum()
        np.testing.assert_allclose(after, adpsgd_form.replay(before, peers), rtol=0, atol=1e-12 * scale)
        assert np.linalg.norm(after.sum(axis=0) - before.sum(axis=0)) <= 1e-12 * scale
        total, left = sum(map(len, peers)) / 2, after.var(axis=0).sum() / before.var(axis=0).sum()
        return "" if total >= 100 and left < 1e-12 else f"{left:.3g} of the variance is left by {total} averagings"

    in_time(comm, once)


@pytest.mark.ranks(2)
def test_each_side_sends_its_model_as_it_is(comm: CheckedComm) -> None:
    """Two exchanges with a gradient of each side between them. A half that was prepared after the exchange before
    conserves the sum as well, but averages models without their last gradients."""
    starts, updates = np.array([[1.0, 2.0], [5.0, -4.0]]), np.array([[0.5, 0.25], [-3.0, 1.0]])
    model = gossip.SharedModel(comm, starts[comm.rank].copy(), Trace(comm, Snapshots(0, 2, np.dtype("f8"), True)))
    exchange = gossip.Exchange(comm, model, 1, [0.5, 0.5])
    exchange.average_with(1 - comm.rank, [])
    model.descend(1.0, updates[comm.rank])
    exchange.average_with(1 - comm.rank, [])
    np.testing.assert_array_equal(model.x, starts.mean(axis=0) - updates.mean(axis=0))


@pytest.mark.ranks(2)
def test_models_in_pieces(comm: CheckedComm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four messages of 9 coordinates and one of 1: both workers end at the mean, coordinate by coordinate. A last piece
    left out, or pieces in another order on one side, end elsewhere."""
    monkeypatch.setattr(gossip, "PIECE", 9)
    problem = RandomStart(share(comm, "quadratic:dim=37"), comm.rank)
    outcome = execute(comm, ad_psgd, problem, 10, step_size=0.0, compute_time=1e-3)
    starts = np.stack(comm.allgather(problem.x0()))
    np.testing.assert_allclose(outcome.x, starts.mean(axis=0), rtol=0, atol=1e-14)


@pytest.mark.ranks(2)
def test_halves_on_the_wire_keep_the_sum(comm: CheckedComm) -> None:
    """Both sides add what was sent and received, to the bit: models rounded for the wire move, but not their sum. And
    it is half as many bytes."""
    starts = np.random.default_rng(7).standard_normal((2, 1000)).astype(np.float32)
    model = gossip.SharedModel(comm, starts[comm.rank].copy(), Trace(comm, Snapshots(0, 2, np.dtype("f4"), True)))
    exchange = gossip.Exchange(comm, model, 1, [0.5, 0.5], WireFormat("bfloat16", 0, comm.rank))
    for _ in range(200):
        exchange.average_with(1 - comm.rank, [])
    models = np.stack(comm.allgather(model.x)).astype(float)
    np.testing.assert_allclose(models.sum(axis=0), starts.astype(float).sum(axis=0), rtol=0, atol=1e-4)
    assert np.abs(models[0] - models[1]).max() < 0.05
    assert exchange.nbytes == 2 * 1000
    assert comm.meter.nbytes.sum() == 200 * 2 * 1000


@pytest.mark.ranks(1)
@pytest.mark.parametrize("flags", [{}, {"schedule": "step:at=0.3,warm-up=0.2", "sampling": "shuffle"}])
def test_one_worker_is_sgd(comm: CheckedComm, flags: dict[str, str]) -> None:
    for problem in ("quadratic:dim=10,sigma=0.3", "digits:hidden=5"):
        x = execute(comm, ad_psgd, share(comm, problem), 50, **flags).x
        cfg = allreduce_sgd.Config(step_size=0.2, dtype="float64", **flags)
        expected = sgd_form.run(shares(problem, 1), cfg, 50)[0]
        np.testing.assert_allclose(x, expected, rtol=0, atol=1e-12)


class Interleaved(Trace):
    """Tells how many exchanges have ended, and keeps the model as it was before each write."""

    def __init__(self, comm: CheckedComm, dim: int) -> None:
        super().__init__(comm, Snapshots(0, dim, np.dtype("f8"), per_step=True))
        self.exchanged = threading.Semaphore(0)
        self.models: list[np.ndarray] = []

    @contextmanager
    def phase(self, *args: object, **kwargs: object) -> Iterator[None]:  # type: ignore[override]
        with super().phase(*args, **kwargs):  # type: ignore[arg-type]
            yield
        self.exchanged.release()

    def snapshot(self, x: np.ndarray) -> None:
        self.models.append(x.copy())


class Scripted(RandomStart):
    """Rank 0's gradient starts before the exchange and ends after it; rank 1's is over before the exchange."""

    def __init__(self, problem: object, comm: CheckedComm, trace: Interleaved) -> None:
        super().__init__(problem, comm.rank)
        self._comm, self._trace = comm, trace

    def gradient(self, x: np.ndarray, batch: np.ndarray, out: np.ndarray) -> None:
        if self._comm.rank == 0:
            self._comm.Send(np.empty(0), 1, 7)  # the model has been read
            assert self._trace.exchanged.acquire(timeout=30)
        self._problem.gradient(x, batch, out)
        if self._comm.rank == 1:
            self._comm.Recv(np.empty(0), 0, 7)


@pytest.mark.ranks(2)
def test_gradient_is_taken_at_the_model_as_read(comm: CheckedComm) -> None:
    """Two workers, one gradient each, in a fixed order. Worker 0 must come to the average minus its gradient at the
    model before averaging; a gradient at the average ends elsewhere. A second exchange follows worker 0's gradient."""
    mine, script = share(comm, "quadratic:dim=6,zeta=1"), CheckedComm(MPI.Intracomm(comm).Dup())
    trace = Interleaved(comm, 6)
    problem, gamma = Scripted(mine, script, trace), 0.3
    cfg = ad_psgd.Config(step_size=gamma, dtype="float64")

    def rounds() -> Iterator[int]:
        yield 0
        for _ in range(2 - (comm.rank == 0)):  # worker 0 has waited for the first one in its gradient
            assert trace.exchanged.acquire(timeout=30)

    x = ad_psgd.run(comm, problem, cfg, Rounds(rounds()), trace)

    def applied(rank: int, x: np.ndarray) -> np.ndarray:
        g = np.empty_like(x)
        shares("quadratic:dim=6,zeta=1", 2)[rank].gradient(x, None, g)
        return gamma * g

    a, b = (np.random.default_rng([99, rank]).standard_normal(6) for rank in (0, 1))
    average = (a + b - applied(1, b)) / 2
    expected = [a, average, average - applied(0, a)] if comm.rank == 0 else [b, b - applied(1, b), average]
    expected.append(average - applied(0, a) / 2)
    np.testing.assert_allclose([*trace.models, x], expected, rtol=0, atol=1e-14)
    script.Free()


@pytest.mark.ranks(8)
def test_short_runs_never_hang(comm: CheckedComm) -> None:
    """Uneven paces, many ends: every run applies exactly its budget and leaves no message (execute checks it).
    OUTPACE_SOAK sets the number of runs."""
    problem = share(comm, "quadratic:dim=10")
    for seed in range(SOAK):
        stragglers = ("none", f"fixed:rank={seed % 8},factor=20", "pareto:alpha=1.1")[seed % 3]
        flags = {
            "averaging": ("gradient", "free")[seed % 4 == 3],
            "topology": ("ring", "exponential", "star")[seed % 5 % 3],
        }
        flags |= {"stragglers": stragglers, "compute_time": 2e-4 * (seed % 7 > 0), "seed": seed}
        outcome = execute(comm, ad_psgd, problem, 1 + seed % 5, **flags)
        assert comm.allreduce(len(outcome.steps)) == 8 * (1 + seed % 5)


@pytest.mark.ranks(2)
@pytest.mark.parametrize(("W", "weight"), [("ring", 0.5), ("ring:lazy=1", 0.25), ([[0.7, 0.3], [0.3, 0.7]], 0.3)])
def test_an_exchange_has_the_weight_of_the_matrix(
    comm: CheckedComm, tmp_path_factory: pytest.TempPathFactory, W: object, weight: float
) -> None:
    """One gradient, hence one exchange: x_i <- (1 - w) x_i + w x_j on both sides."""
    if isinstance(W, list):
        path = comm.bcast(tmp_path_factory.mktemp("W") / "W.txt")
        if comm.rank == 0:
            np.savetxt(path, W)
        comm.Barrier()
        W = f"file:path={path}"
    problem = RandomStart(share(comm, "quadratic:dim=6"), comm.rank)
    trace, cfg = Held(comm), ad_psgd.Config(step_size=0.0, dtype="float64", topology=str(W))
    rounds = averaged(trace, 1) if comm.rank == 1 else []
    x = ad_psgd.run(comm, problem, cfg, Rounds(rounds), trace)
    a, b = problem.x0(), RandomStart(problem, 1 - comm.rank).x0()
    np.testing.assert_allclose(x, (1 - weight) * a + weight * b, rtol=0, atol=1e-14)


class Held(Trace):
    """Counts the exchanges that have ended, and lets none begin while the gate is closed."""

    def __init__(self, comm: CheckedComm) -> None:
        super().__init__(comm, Snapshots(0, 1, np.dtype("f8"), per_step=True))
        self.gate, self.begun, self.ended = threading.Event(), threading.Event(), threading.Semaphore(0)
        self.gate.set()

    @contextmanager
    def phase(self, *args: object, **kwargs: object) -> Iterator[None]:  # type: ignore[override]
        self.begun.set()
        assert self.gate.wait(30)
        with super().phase(*args, **kwargs):  # type: ignore[arg-type]
            yield
        self.ended.release()


def averaged(trace: Held, count: int) -> Iterator[int]:
    """Gradients each of which waits for its averaging."""
    for k in range(count):
        yield k
        assert trace.ended.acquire(timeout=30)


def gradients_while_held(trace: Held) -> Iterator[int]:
    """A gradient, three more before its exchange has begun, and the end, long after everything due."""
    trace.gate.clear()
    yield 0
    assert trace.begun.wait(30)
    yield from (1, 2, 3)
    time.sleep(0.1)  # that they are due is heard while the exchange lasts
    trace.gate.set()
    assert trace.ended.acquire(timeout=30)
    assert trace.ended.acquire(timeout=30), "averagings that became due meanwhile were dropped"
    time.sleep(0.1)


@pytest.mark.ranks(2)
@pytest.mark.parametrize("worker", [0, 1], ids=["passive", "active"])
def test_one_averaging_stands_for_all_that_are_due(comm: CheckedComm, worker: int) -> None:
    """Three gradients while an exchange lasts: one more exchange, not none and not three."""
    trace = Held(comm)
    rounds = gradients_while_held(trace) if comm.rank == worker else []
    ad_psgd.run(comm, share(comm, "quadratic:dim=6"), ad_psgd.Config(dtype="float64"), Rounds(rounds), trace)
    assert len(np.frombuffer(trace.drain()["events"], EVENTS)) == 2


@pytest.mark.ranks(4, 8)
@pytest.mark.parametrize("worker", [0, 1], ids=["passive", "active"])
def test_neighbours_are_drawn_uniformly(comm: CheckedComm, worker: int) -> None:
    """Only one worker computes, so all exchanges are with those whom it draws, be it active or passive: chi-squared at
    1e-4. A draw among the first two, or one that maps the own rank to the next, is far off; a rotation far below."""
    quantiles = {1: 15.1, 2: 18.4, 3: 21.1}  # by degrees of freedom
    graph = {4: ("star", "ring"), 8: ("hypercube", "exponential")}[comm.size][worker]
    neighbours = topology.neighbours(topology.mixing_matrix(graph, comm.size), worker)
    trace = Held(comm)
    rounds = averaged(trace, 300) if comm.rank == worker else []
    cfg = ad_psgd.Config(dtype="float64", topology=graph)
    ad_psgd.run(comm, share(comm, "quadratic:dim=4"), cfg, Rounds(rounds), trace)
    peers = np.frombuffer(trace.drain()["events"], EVENTS)["peer"]
    if comm.rank == worker:
        assert len(peers) == 300
        counts, expected = np.array([(peers == peer).sum() for peer in neighbours]), len(peers) / len(neighbours)
        assert counts.sum() == len(peers)
        assert ((counts - expected) ** 2 / expected).sum() < quantiles[len(neighbours) - 1]
        changes = np.count_nonzero(np.diff(peers)) / len(peers)
        assert abs(changes - (1 - 1 / len(neighbours))) < 0.15  # neither blocks nor a rotation
    else:
        assert set(peers) <= {worker}


@pytest.mark.ranks(4)
def test_nobody_waits_for_a_slow_worker(comm: CheckedComm) -> None:
    """One rank 20 times slower, whichever it is: the others keep their pace, and every worker averages once for its own
    gradients and, on the ring, for every other one of its neighbours'. Where active workers alone ask, or a slow one
    is asked by nobody, it is less."""
    problem = share(comm, "quadratic:dim=100")

    def beside(slow: int) -> str:
        outcome = execute(
            comm, ad_psgd, problem, None, seconds=1.0, compute_time=0.01, stragglers=f"fixed:rank={slow},factor=20"
        )
        gradients = comm.allgather(len(outcome.steps))
        if comm.rank != slow and len(outcome.steps) <= 75:
            return f"{len(outcome.steps)} steps beside the slow rank {slow}"
        left, right = (gradients[(comm.rank + way) % comm.size] for way in (-1, 1))
        found, expected = len(exchanges(outcome.events)), len(outcome.steps) + (left + right) / 2
        return "" if abs(found / expected - 1) < 0.25 else f"{found} averagings, {expected} were expected"

    for slow in range(comm.size):
        in_time(comm, functools.partial(beside, slow))


@pytest.mark.ranks(2, 4)
def test_the_run_ends_within_an_exchange_of_its_last_gradient(comm: CheckedComm) -> None:
    """Of models whose exchange takes longer than a gradient: when all gradients are over, an active worker begins at
    most the one that it began before it heard so, and does not work off what is due at it and at those that called.
    On a busy machine word of the end may come late: one of three runs has to show it."""
    problem = share(comm, "quadratic:dim=1000000,samples=64")
    active, _ = topology.bipartition(topology.mixing_matrix("ring", comm.size), comm.rank)
    late = []
    while not late or (min(late) > 1 and len(late) < 3):
        outcome = execute(comm, ad_psgd, problem, 12, compute_time=0.002)
        mine = exchanges(outcome.events)
        last_s = comm.allreduce(outcome.steps["t_s"].max(initial=0.0), MPI.MAX)
        begun = int(np.count_nonzero(mine["t_start_s"] > last_s)) if active else 0
        late.append(comm.allreduce(begun, MPI.MAX))
        assert 0 < comm.allreduce(len(mine)) / 2 < 12 * comm.size
    assert min(late) <= 1


@pytest.mark.ranks(4)
def test_staleness_is_local_writes_of_others(comm: CheckedComm) -> None:
    """Averagings happen while gradients are computed; a synchronous program in disguise has none."""
    problem = share(comm, "quadratic:dim=10")

    def once() -> str:
        steps = execute(comm, ad_psgd, problem, 60, compute_time=0.002).steps
        assert (steps["local_writes"] >= 0).all()
        assert (steps["read_s"] < steps["t_s"]).all()
        return "" if steps["local_writes"].sum() > 20 else f"{steps['local_writes'].sum()} averagings beside gradients"

    in_time(comm, once)
