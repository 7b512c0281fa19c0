"""m-synchronous SGD beyond the conformance table: replayed gradient by gradient, the whole family, at its own pace."""

import functools

import numpy as np
import pytest
from harness import CheckedComm, Outcome, execute, in_time, share, shares
from reference import allreduce_sgd as sgd_form
from reference import m_sync_sgd as m_sync_form

from outpace.algorithms import allreduce_sgd, m_sync_sgd
from outpace.comm.errors import UserError

NOISY = "quadratic:dim=10,sigma=0.3,zeta=1"
UNEVEN = "lognormal:sigma=1"
ROUNDS = 30


def log_of(outcome: Outcome) -> np.ndarray:
    """The server's log, (worker, applied, staleness) for each gradient in the order of time."""
    rows = np.concatenate([outcome.applied, outcome.dropped])
    applied = np.arange(len(rows)) < len(outcome.applied)
    order = np.argsort(rows["t_s"], kind="stable")
    return np.stack([rows["worker"], applied, rows["staleness"]], axis=1)[order]


@pytest.mark.ranks(2, 3, 4, 5, 8)
@pytest.mark.parametrize("late", ["discard", "apply"])
def test_is_its_replay(comm: CheckedComm, late: str) -> None:
    """For every m the model, and the staleness of every gradient, follow from the server's log alone, in which each
    computed gradient stands once. Gradients of the wrong round, averages over n, and late workers that go on at an old
    model fail this."""
    n = comm.size - 1
    config = {"late": late, "schedule": "step:at=0.2+0.4,factor=0.5,warm-up=0.1", "sampling": "shuffle"}
    for m in range(1, n + 1):
        mine = share(comm, NOISY, servers=1)
        outcome = execute(comm, m_sync_sgd, mine, ROUNDS, compute_time=0.002, stragglers=UNEVEN, m=m, **config)
        log = comm.bcast(log_of(outcome), n)
        cfg = m_sync_sgd.Config(dtype="float64", **config)
        x, staleness = m_sync_form.replay(shares(NOISY, n), cfg, m, log[:, :2])
        np.testing.assert_allclose(outcome.mean, x, rtol=0, atol=1e-12)
        taken = log[:, 1] == 1
        assert taken.sum() == ROUNDS * m
        assert (log[:, 2] == staleness).all()
        if comm.rank < n:
            assert (log[:, 0] == comm.rank).sum() == len(outcome.steps)
        if late == "discard":
            assert not log[taken, 2].any()
            if 1 < m < n:
                assert not taken.all()
        elif 1 < m < n:  # only the gradients under way at the end are dropped, and some were stale
            assert taken[: ROUNDS * m].all()
            assert log[taken, 2].any()


@pytest.mark.ranks(2, 3, 5)
@pytest.mark.parametrize("pause", [False, True])
def test_all_of_n_is_allreduce_sgd(comm: CheckedComm, pause: bool) -> None:
    """With m = n: the same iterates, no gradient dropped or stale, whatever the paces, and through checkpoints."""
    n = comm.size - 1
    config = {"schedule": "cosine", "sampling": "shuffle"}
    mine = share(comm, NOISY, servers=1)
    paces = {"compute_time": 0.002, "stragglers": UNEVEN, "pause": pause}
    outcome = execute(comm, m_sync_sgd, mine, 40, m=n, **paces, **config)
    assert (outcome.pauses > 0) == pause
    expected = sgd_form.run(shares(NOISY, n), allreduce_sgd.Config(dtype="float64", **config), 40)[0]
    np.testing.assert_allclose(outcome.mean, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(outcome.x, expected, rtol=0, atol=1e-12)  # the last answer, at a worker
    assert comm.allreduce(len(outcome.dropped)) == 0
    assert comm.allreduce(len(outcome.steps)) == 40 * n
    assert not outcome.applied["staleness"].any()


@pytest.mark.ranks(5)
@pytest.mark.parametrize("late", ["discard", "apply"])
def test_a_round_waits_for_the_mth_fastest_alone(comm: CheckedComm, late: str) -> None:
    """One worker 20 times slower, whichever it is. Rounds of the others go on meanwhile, and the slow one's gradients
    are dropped or come late; of all four there are no more rounds than gradients of the slow one."""
    problem = share(comm, "quadratic:dim=100", servers=1)

    def beside(slow: int, m: int) -> str:
        pace = {"compute_time": 0.01, "stragglers": f"fixed:rank={slow},factor=20"}
        log = comm.bcast(log_of(execute(comm, m_sync_sgd, problem, None, seconds=1.0, **pace, m=m, late=late)), 4)
        rounds = (log[:, 1] == 1).sum() / m
        of_slow = log[log[:, 0] == slow]
        if m == 4:
            assert rounds <= len(of_slow)
            return ""
        kept = of_slow[of_slow[:, 1] == 1]
        assert late == "apply" or not len(kept)
        holds = rounds > 5 * len(of_slow) and (late == "discard" or (len(kept) > 0 and kept[:, 2].mean() > 5 * m))
        return "" if holds else f"{rounds} rounds, {len(of_slow)} gradients of the slow worker, {len(kept)} kept"

    for slow, m in ((0, 3), (2, 3), (1, 4)):
        in_time(comm, functools.partial(beside, slow, m))


@pytest.mark.ranks(4)
def test_a_round_of_more_gradients_than_workers_is_refused(comm: CheckedComm) -> None:
    with pytest.raises(UserError, match=r"--m is 4; with 3 worker\(s\) it must be at most 3"):
        execute(comm, m_sync_sgd, share(comm, NOISY, servers=1), 5, m=4)
