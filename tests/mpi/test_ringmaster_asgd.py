"""Ringmaster and Ringleader beyond the conformance table: replayed gradient by gradient, their laws, their limits."""

import numpy as np
import pytest
from harness import CheckedComm, Outcome, execute, share, shares
from reference import a_psgd as a_psgd_form
from reference import ringmaster_asgd as form

from outpace.algorithms import a_psgd, ringmaster_asgd
from outpace.benchmarks.trace.schema import KIND
from outpace.comm.errors import UserError

NOISY = "quadratic:dim=10,sigma=0.3,zeta=1"
UNEVEN = "lognormal:sigma=1"
CONFIG = {"schedule": "step:at=0.2+0.4,factor=0.5,warm-up=0.1", "sampling": "shuffle"}


def came(comm: CheckedComm, outcome: Outcome) -> np.ndarray:
    """The workers in the order in which their gradients came to the last rank, a server."""
    events = comm.bcast(outcome.events, comm.size - 1)
    order: np.ndarray = events["peer"][events["kind"] == KIND["push"]]
    return order


def log_of(comm: CheckedComm, outcome: Outcome) -> list[tuple[int, bool, int]]:
    """Of each gradient in the server's logs: worker, whether it was used, staleness; in the order of time."""
    rows = np.concatenate([outcome.applied, outcome.dropped])
    used = np.arange(len(rows)) < len(outcome.applied)
    order = np.argsort(rows["t_s"], kind="stable")
    columns = rows["worker"], used, rows["staleness"]
    log = list(zip(*(column[order].tolist() for column in columns), strict=True))
    whole: list[tuple[int, bool, int]] = comm.bcast(log, comm.size - 1)
    return whole


@pytest.mark.ranks(2, 3, 4, 5, 8)
@pytest.mark.parametrize("problem", [NOISY, "digits:hidden=5"])
def test_without_a_threshold_it_is_a_psgd(comm: CheckedComm, problem: str) -> None:
    """To 1e-12 A-PSGD's own replay, model and staleness; every gradient of the budget is applied."""
    mine, n = share(comm, problem, servers=1), comm.size - 1
    paces = {"compute_time": 0.001, "stragglers": UNEVEN}
    outcome = execute(comm, ringmaster_asgd, mine, 40, threshold=10**9, **paces, **CONFIG)
    order = came(comm, outcome)
    x, staleness = a_psgd_form.replay(shares(problem, n), a_psgd.Config(dtype="float64", **CONFIG), order)
    np.testing.assert_allclose(outcome.mean, x, rtol=0, atol=1e-12)
    log = log_of(comm, outcome)
    assert log == [(i, True, delay) for i, delay in zip(order, staleness, strict=True)]
    assert len(log) == 40 * n


@pytest.mark.ranks(2, 3, 4, 5, 8)
def test_ringmaster_is_its_replay(comm: CheckedComm) -> None:
    """For several R. Nothing as old as R is applied, nothing younger is dropped, each gradient of the budget is one or
    the other, and dropped ones make nobody's model older."""
    n = comm.size - 1
    cfg = ringmaster_asgd.Config(dtype="float64", **CONFIG)
    for threshold in (1, max(1, n - 1), n + 1):
        mine = share(comm, NOISY, servers=1)
        paces = {"compute_time": 0.001, "stragglers": UNEVEN}
        outcome = execute(comm, ringmaster_asgd, mine, 30, threshold=threshold, **paces, **CONFIG)
        x, expected = form.ringmaster(shares(NOISY, n), cfg, threshold, came(comm, outcome))
        np.testing.assert_allclose(outcome.mean, x, rtol=0, atol=1e-12)
        log = log_of(comm, outcome)
        assert log == expected
        assert len(log) == 30 * n
        assert all((delay < threshold) == used for _, used, delay in log)
        if n > 2 and threshold < n:
            assert not all(used for _, used, _ in log)
        if comm.rank < n:
            assert sum(worker == comm.rank for worker, _, _ in log) == len(outcome.steps)


@pytest.mark.ranks(2, 3, 4, 5, 8)
@pytest.mark.parametrize("stragglers", [UNEVEN, "fixed:rank=0,factor=8"])
def test_ringleader_is_its_replay(comm: CheckedComm, stragglers: str) -> None:
    """Each gradient of the budget is used, but for those in the tables at the end; none by an update that is more than
    2n - 2 after its read, the bound of the paper."""
    n = comm.size - 1
    mine = share(comm, NOISY, servers=1)
    paces = {"compute_time": 0.001, "stragglers": stragglers}
    outcome = execute(comm, ringmaster_asgd, mine, 40, variant="ringleader", **paces, **CONFIG)
    cfg = ringmaster_asgd.Config(dtype="float64", variant="ringleader", **CONFIG)
    x, expected = form.ringleader(shares(NOISY, n), cfg, came(comm, outcome))
    np.testing.assert_allclose(outcome.mean, x, rtol=0, atol=1e-12)
    log = log_of(comm, outcome)
    assert log == expected
    assert len(log) == 40 * n
    used = [taken for _, taken, _ in log]
    assert used == sorted(used, reverse=True)  # dropped at the end alone
    assert max(delay for _, taken, delay in log if taken) <= 2 * n - 2


@pytest.mark.ranks(4)
def test_ringleader_is_not_drawn_to_fast_workers(comm: CheckedComm) -> None:
    """Every worker has a minimum of its own, one worker is ten times slower, and gradients are exact. A-PSGD ends where
    the fast ones' minima draw it, Ringleader at the minimum of the unweighted mean."""
    text, away = "quadratic:dim=10,condition=1,zeta=1", {}
    x_star = shares(text, 3)[0].x_star
    for program, variant in ((a_psgd, {}), (ringmaster_asgd, {"variant": "ringleader"})):
        mine = share(comm, text, servers=1)
        paces = {"compute_time": 0.002, "stragglers": "fixed:rank=1,factor=10"}
        mean = execute(comm, program, mine, 150, step_size=0.4, **paces, **variant).mean
        away[program] = float(np.linalg.norm(mean - x_star))
    assert away[a_psgd] > 0.1
    assert away[ringmaster_asgd] < 0.1 * away[a_psgd]


@pytest.mark.ranks(3)
def test_a_threshold_of_ringleader_is_refused(comm: CheckedComm) -> None:
    with pytest.raises(UserError, match="--threshold is of --variant ringmaster"):
        execute(comm, ringmaster_asgd, share(comm, NOISY, servers=1), 5, variant="ringleader", threshold=3)
