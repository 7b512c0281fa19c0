"""What only AD-PSGD promises: conservation, exact budgets, gradients at the model as read, no hang, no wait."""

import os
import threading

import numpy as np
import pytest
from harness import CheckedComm, RandomStart, Rounds, execute, share, shares
from mpi4py import MPI
from reference import allreduce_sgd as sgd_form

from outpace.algorithms import ad_psgd, allreduce_sgd
from outpace.benchmarks.trace.recorder import EVENTS, Trace
from outpace.benchmarks.trace.schema import KIND
from outpace.benchmarks.trace.snapshots import Snapshots
from outpace.comm import gossip, topology

SOAK = int(os.environ.get("OUTPACE_SOAK", "20"))  # repetitions of the short run


def exchanges(events: np.ndarray) -> np.ndarray:
    return events[events["kind"] == KIND["exchange"]]


@pytest.mark.ranks(2, 4, 8)
def test_ten_thousand_exchanges_conserve_the_sum(comm: CheckedComm) -> None:
    """To 1e-12 relative with no exchange in flight, and the models come together: one-sided averaging and lost
    updates fail this."""
    total = 10_000
    problem = RandomStart(share(comm, "quadratic:dim=32"), comm.rank)
    # Every gradient of an active worker is one exchange, so the passive ones are slowed to leave them most tickets.
    active, _ = topology.bipartition(topology.mixing_matrix("ring", comm.size), comm.rank)
    passive = "+".join(str(rank) for rank, asks in enumerate(comm.allgather(active)) if not asks)
    flags = {"step_size": 0.0, "compute_time": 1e-4, "stragglers": f"fixed:rank={passive},factor=100"}
    outcome = execute(comm, ad_psgd, problem, 2 * total // comm.size, **flags)
    mine = exchanges(outcome.events)
    assert comm.allreduce(len(mine) if active else 0) == comm.allreduce(0 if active else len(mine))
    assert comm.allreduce(len(mine) if active else 0) >= total
    before, after = np.stack(comm.allgather(problem.x0())), np.stack(comm.allgather(outcome.x))
    scale = np.linalg.norm(before, axis=1).sum()
    assert np.linalg.norm(after.sum(axis=0) - before.sum(axis=0)) <= 1e-12 * scale
    assert after.var(axis=0).sum() < 1e-12 * before.var(axis=0).sum()


@pytest.mark.ranks(2)
def test_models_in_pieces(comm: CheckedComm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four messages of 9 coordinates and one of 1: both workers end at the mean, coordinate by coordinate. A last piece
    left out, or pieces in another order on one side, end elsewhere."""
    monkeypatch.setattr(gossip, "PIECE", 9)
    problem = RandomStart(share(comm, "quadratic:dim=37"), comm.rank)
    outcome = execute(comm, ad_psgd, problem, 10, step_size=0.0, compute_time=1e-3)
    starts = np.stack(comm.allgather(problem.x0()))
    np.testing.assert_allclose(outcome.x, starts.mean(axis=0), rtol=0, atol=1e-14)


@pytest.mark.ranks(1)
def test_one_worker_is_sgd(comm: CheckedComm) -> None:
    for problem in ("quadratic:dim=10,sigma=0.3", "digits:hidden=5"):
        x = execute(comm, ad_psgd, share(comm, problem), 50).x
        expected = sgd_form.run(shares(problem, 1), allreduce_sgd.Config(dtype="float64"), 50)[0]
        np.testing.assert_allclose(x, expected, rtol=0, atol=1e-12)


class Interleaved(Trace):
    """Tells when the communication thread has finished an exchange."""

    def __init__(self, comm: CheckedComm, dim: int) -> None:
        super().__init__(comm, Snapshots(0, dim, np.dtype("f8"), per_step=True))
        self.exchanged = threading.Event()

    def phase(self, kind: str, *args: object, **kwargs: object) -> object:
        inner, exchanged = super().phase(kind, *args, **kwargs), self.exchanged

        class Announced:
            def __enter__(self) -> None:
                inner.__enter__()

            def __exit__(self, *error: object) -> None:
                inner.__exit__(*error)
                exchanged.set()

        return Announced()


class Scripted(RandomStart):
    """Rank 0's gradient starts before the exchange and ends after it; rank 1's is over before the exchange."""

    def __init__(self, problem: object, comm: CheckedComm, trace: Interleaved) -> None:
        super().__init__(problem, comm.rank)
        self._comm, self._trace = comm, trace

    def gradient(self, x: np.ndarray, batch: np.ndarray, out: np.ndarray) -> None:
        self._problem.gradient(x, batch, out)
        if self._comm.rank == 0:
            self._comm.Send(np.empty(0), 1, 7)  # the model has been read
            assert self._trace.exchanged.wait(30)
        else:
            self._comm.Recv(np.empty(0), 0, 7)


@pytest.mark.ranks(2)
def test_gradient_is_taken_at_the_model_as_read(comm: CheckedComm) -> None:
    """Two workers, one gradient each, in a fixed order. Worker 0 must end at the average minus its gradient at the
    model before averaging; x <- (x + r)/2 without the increment, or a gradient at the average, ends elsewhere."""
    mine, script = share(comm, "quadratic:dim=6,zeta=1"), CheckedComm(MPI.Intracomm(comm).Dup())
    trace = Interleaved(comm, 6)
    problem, gamma = Scripted(mine, script, trace), 0.3
    cfg = ad_psgd.Config(step_size=gamma, dtype="float64")
    x = ad_psgd.run(comm, problem, cfg, Rounds([0]), trace)

    def applied(rank: int, x: np.ndarray) -> np.ndarray:
        g = np.empty_like(x)
        shares("quadratic:dim=6,zeta=1", 2)[rank].gradient(x, None, g)
        return gamma * g

    a, b = (np.random.default_rng([99, rank]).standard_normal(6) for rank in (0, 1))
    average = (a + b - applied(1, b)) / 2
    np.testing.assert_allclose(x, average - applied(0, a) if comm.rank == 0 else average, rtol=0, atol=1e-14)
    script.Free()


@pytest.mark.ranks(8)
def test_short_runs_never_hang(comm: CheckedComm) -> None:
    """Uneven paces, many ends: every run applies exactly its budget and leaves no message (execute checks it).
    OUTPACE_SOAK sets the number of runs."""
    problem = share(comm, "quadratic:dim=10")
    for seed in range(SOAK):
        stragglers = ("none", f"fixed:rank={seed % 8},factor=20", "pareto:alpha=1.1")[seed % 3]
        outcome = execute(comm, ad_psgd, problem, 1 + seed % 5, stragglers=stragglers, compute_time=2e-4, seed=seed)
        assert comm.allreduce(len(outcome.steps)) == 8 * (1 + seed % 5)


@pytest.mark.ranks(4)
def test_neighbours_are_drawn_uniformly(comm: CheckedComm) -> None:
    """Chi-squared at 1e-4 over an active worker's neighbours: a draw that maps the own rank to the next one, or a
    rotation, is far off (a rotation far below)."""
    events = exchanges(execute(comm, ad_psgd, share(comm, "quadratic:dim=4"), 300, compute_time=2e-4).events)
    active, neighbours = topology.bipartition(topology.mixing_matrix("ring", comm.size), comm.rank)
    if active:
        counts = np.array([(events["peer"] == peer).sum() for peer in neighbours])
        expected = counts.sum() / len(counts)
        statistic = ((counts - expected) ** 2 / expected).sum()
        assert 1e-8 < statistic + 1e-7 < 15.1  # the 1 - 1e-4 quantile with one degree of freedom
        changes = np.count_nonzero(np.diff(events["peer"]))
        assert 0.35 * len(events) < changes < 0.65 * len(events)  # neither blocks nor a rotation


@pytest.mark.ranks(4)
def test_nobody_waits_for_a_slow_worker(comm: CheckedComm) -> None:
    """One rank 20 times slower, whichever it is: the others keep their pace, and the slow one still averages."""
    problem = share(comm, "quadratic:dim=100")
    for slow in range(comm.size):
        outcome = execute(
            comm, ad_psgd, problem, None, seconds=1.0, compute_time=0.01, stragglers=f"fixed:rank={slow},factor=20"
        )
        mine = exchanges(outcome.events)
        assert mine.dtype == EVENTS
        if comm.rank != slow:
            assert len(outcome.steps) > 75, f"rank {slow} is slow and rank {comm.rank} made {len(outcome.steps)} steps"
        active, _ = topology.bipartition(topology.mixing_matrix("ring", comm.size), comm.rank)
        if active:
            assert len(mine) == len(outcome.steps)
        elif comm.rank == slow:
            assert len(mine) > 3 * len(outcome.steps)


@pytest.mark.ranks(4)
def test_staleness_is_local_writes_of_others(comm: CheckedComm) -> None:
    """Averagings happen while gradients are computed (a synchronous program in disguise has none), about as many as
    a passive worker is asked for."""
    outcome = execute(comm, ad_psgd, share(comm, "quadratic:dim=10"), 60, compute_time=0.002)
    assert (outcome.steps["local_writes"] >= 0).all()
    assert outcome.steps["local_writes"].sum() > 20
    assert (outcome.steps["read_s"] < outcome.steps["t_s"]).all()
