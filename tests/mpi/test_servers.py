"""The parameter-server programs beyond the conformance table: replayed step by step, at their own pace, to the end."""

import functools
import os
import time
from typing import Any

import numpy as np
import pytest
from harness import CheckedComm, Outcome, RandomStart, execute, in_time, share, shares
from reference import a_psgd as a_psgd_form
from reference import allreduce_sgd as sgd_form
from reference import eamsgd as eamsgd_form

from outpace.algorithms import a_psgd, allreduce_sgd, eamsgd
from outpace.benchmarks.trace.schema import KIND
from outpace.comm import server
from outpace.comm.clock import wait, wait_some
from outpace.comm.server import ANSWER, MESSAGE, ask, exchanges, leave

SOAK = int(os.environ.get("OUTPACE_SOAK", "10"))  # repetitions of the short run
NOISY = "quadratic:dim=10,sigma=0.3,zeta=1"
UNEVEN = "lognormal:sigma=1"


def everybodys(comm: CheckedComm, outcome: Outcome) -> list[Outcome]:
    gathered: list[Outcome] = comm.allgather(outcome)
    return gathered


@pytest.mark.ranks(2, 3, 4, 5, 8)
@pytest.mark.parametrize("problem", [NOISY, "digits:hidden=5"])
def test_a_psgd_is_its_replay(comm: CheckedComm, problem: str) -> None:
    """The model, and every gradient's staleness, follow from the order of the server's log alone: gradients lost,
    applied twice or taken at another model than the last one pulled fail this."""
    mine, n = share(comm, problem, servers=1), comm.size - 1
    config = {"schedule": "step:at=0.2+0.4,factor=0.5,warm-up=0.1", "sampling": "shuffle"}
    outcome = execute(comm, a_psgd, mine, 40, compute_time=0.001, stragglers=UNEVEN, **config)
    log = comm.bcast(outcome.applied, n)
    x, staleness = a_psgd_form.replay(shares(problem, n), a_psgd.Config(dtype="float64", **config), log["worker"])
    np.testing.assert_allclose(outcome.mean, x, rtol=0, atol=1e-12)
    assert len(log) == 40 * n
    assert (log["staleness"] == staleness).all()
    if comm.rank < n:
        assert (log["worker"] == comm.rank).sum() == len(outcome.steps)
        if n > 2:
            assert staleness.max() > 0  # else it is synchronous in disguise


@pytest.mark.ranks(2, 3)
def test_one_worker_is_sgd_however_many_servers(comm: CheckedComm) -> None:
    mine = share(comm, NOISY, servers=comm.size - 1)
    mean = execute(comm, a_psgd, mine, 50, servers=comm.size - 1).mean
    expected = sgd_form.run(shares(NOISY, 1), allreduce_sgd.Config(dtype="float64"), 50)[0]
    np.testing.assert_allclose(mean, expected, rtol=0, atol=1e-12)


@pytest.mark.ranks(2)
def test_a_short_answer_is_no_event_of_its_own(comm: CheckedComm, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has left when it is sent, and the next message is looked for at once: a server sees an event for each message,
    and one for the worker's leave, not two for each."""
    x, events = np.zeros(3), list[int]()

    def counting(*args: Any) -> list[int]:
        done = wait_some(*args)
        events.extend(done)
        return done

    monkeypatch.setattr(server, "wait_some", counting)
    if comm.rank == 0:
        for _ in range(20):
            ask(comm, {1: slice(3)}, np.ones(3), x)
        leave(comm, [1])
        assert x.tolist() == [20.0] * 3
    else:
        total = np.zeros(3)
        for came, (_, message, answer) in enumerate(exchanges(comm, 1, x)):
            total += message
            message[:] = total
            if came < 10:
                answer()  # else it is sent when the next message is asked for
        assert len(events) == 20 + 1


@pytest.mark.ranks(4, 8)
@pytest.mark.parametrize("stragglers", ["none", "fixed:rank=0,factor=10", "pareto:alpha=1.5"])
def test_mean_staleness_is_n_minus_1_whatever_the_speeds(comm: CheckedComm, stragglers: str) -> None:
    """Every worker has one gradient under way. Only a worker's first and last gradients fall short of a full round.
    A worker's own mean follows from the order of the log, whatever the machine makes of the paces: every gradient of
    another one that comes before its last is counted once."""
    n = comm.size - 1
    outcome = execute(comm, a_psgd, share(comm, NOISY, servers=1), 40, compute_time=0.01, stragglers=stragglers)
    log = comm.bcast(outcome.applied, n)
    staleness = log["staleness"]
    assert n - 1 - n / 40 <= staleness.mean() <= n - 1
    for worker in range(n):
        own = log["worker"] == worker
        assert staleness[own].sum() == np.count_nonzero(~own[: np.flatnonzero(own)[-1]])
    if stragglers.startswith("fixed"):  # each round of the slow worker sees ten of everybody else's
        slow = log["worker"] == 0
        assert staleness[slow].mean() > 3 * staleness[~slow].mean()


@pytest.mark.ranks(2, 3, 4, 5)
def test_eamsgd_is_its_replay(comm: CheckedComm) -> None:
    """Centre and local models follow from the order of the exchanges, and with one worker also from step sizes that
    differ from gradient to gradient; of several workers who got which k is open."""
    schedule = "cosine" if comm.size == 2 else "constant"
    for period in (1, 3):
        mine, n = share(comm, NOISY, servers=1), comm.size - 1
        outcome = execute(
            comm, eamsgd, mine, 40, compute_time=0.001, stragglers=UNEVEN, period=period, schedule=schedule
        )
        events = comm.bcast(outcome.events, n)
        order = events["peer"][events["kind"] == KIND["exchange"]]
        steps = comm.allgather(len(outcome.steps))[:n]
        cfg = eamsgd.Config(dtype="float64", period=period, schedule=schedule)
        centre, X = eamsgd_form.replay(shares(NOISY, n), cfg, order, steps)
        assert len(order) == sum(-(-count // period) for count in steps)
        np.testing.assert_allclose(outcome.mean, centre, rtol=0, atol=1e-12)
        if comm.rank < n:
            np.testing.assert_allclose(outcome.x, X[comm.rank], rtol=0, atol=1e-12)


@pytest.mark.ranks(2, 3, 4, 8)
def test_elastic_exchanges_keep_the_sum(comm: CheckedComm) -> None:
    """With step size 0, from different starts: centre plus local models stay, and come together: by how much decides
    the worker that the machine lets exchange least often."""
    problem = RandomStart(share(comm, NOISY, servers=1), comm.rank)

    def once() -> str:
        x = execute(comm, eamsgd, problem, 400, compute_time=2e-4, step_size=0.0, period=1).x
        before, after = np.stack(comm.allgather(problem.x0())), np.stack(comm.allgather(x))
        scale = np.linalg.norm(before, axis=1).sum()
        assert np.linalg.norm(after.sum(axis=0) - before.sum(axis=0)) <= 1e-12 * scale
        left = after.var(axis=0).sum() / before.var(axis=0).sum()
        return "" if left < 1e-6 else f"{left:.3g} of the variance is left"

    in_time(comm, once)


@pytest.mark.ranks(3, 4, 8)
@pytest.mark.parametrize("program", [a_psgd, eamsgd])
def test_bytes_of_every_rank(comm: CheckedComm, program: object) -> None:
    """Per gradient a worker sends dim numbers and the server as many back. EAMSGD has tickets beside, a batch 48 bytes
    there and 16 back. What reaches the server grows with n, what a worker sends does not."""
    dim, n = 100, comm.size - 1
    config = {"period": 1} if program is eamsgd else {}
    outcome = execute(comm, program, share(comm, f"quadratic:dim={dim}", servers=1), 20, **config)  # type: ignore[arg-type]
    everyone = everybodys(comm, outcome)
    for worker in range(n):
        gradients = len(everyone[worker].steps)
        tickets = everyone[n].sent[worker] - 8 * dim * gradients
        batches = tickets // 16  # and one that is empty
        assert 1 < batches <= gradients + 1 if program is eamsgd else batches == 0
        assert tickets == 16 * batches
        asks = batches + 1 if program is eamsgd else 0
        assert everyone[worker].sent.tolist() == [0] * n + [8 * dim * gradients + 48 * asks]
    assert sum(len(one.steps) for one in everyone) == 20 * n


@pytest.mark.ranks(3, 4)
def test_a_worker_leaves_by_message_and_the_others_go_on(comm: CheckedComm) -> None:
    """Worker 0 leaves after two messages; the others' 50 each are all answered after that, and then the server ends."""
    server = comm.size - 1
    if comm.rank == server:
        total, seen = np.zeros(3), []
        for worker, message, reply in exchanges(comm, server, total):
            total += message
            message[:] = len(seen)
            reply()
            seen.append(worker)
        assert [seen.count(worker) for worker in range(server)] == [2] + [50] * (server - 1)
        np.testing.assert_array_equal(total, np.full(3, 2.0 + sum(50 * (worker + 1) for worker in range(1, server))))
        return
    answer, answers = np.empty(3), []
    for _ in range(50 if comm.rank else 2):
        receive = comm.Irecv(answer, server, ANSWER)
        wait(comm, [receive, comm.Isend(np.full(3, comm.rank + 1.0), server, MESSAGE)])
        answers.append(answer[0])
        time.sleep(0.001)
    leave(comm, [server])
    assert answers == sorted(answers)


@pytest.mark.ranks(5)
@pytest.mark.parametrize("program", [a_psgd, eamsgd])
def test_nobody_waits_for_a_slow_worker(comm: CheckedComm, program: object) -> None:
    """One worker 20 times slower, whichever it is: the others keep their pace."""
    problem = share(comm, "quadratic:dim=100", servers=1)

    def beside(slow: int) -> str:
        stragglers = f"fixed:rank={slow},factor=20"
        outcome = execute(comm, program, problem, None, seconds=1.0, compute_time=0.01, stragglers=stragglers)  # type: ignore[arg-type]
        steps = len(outcome.steps)
        assert comm.rank != slow or steps < 8
        holds = steps > 75 or comm.rank in (slow, comm.size - 1)
        return "" if holds else f"{steps} steps, and rank {slow} is slow"

    for slow in range(comm.size - 1):
        in_time(comm, functools.partial(beside, slow))


@pytest.mark.ranks(8)
@pytest.mark.parametrize("program", [a_psgd, eamsgd])
def test_short_runs_never_hang(comm: CheckedComm, program: object) -> None:
    """Uneven paces, one and two servers, many ends: every run applies exactly its budget and leaves no message
    (execute checks it). OUTPACE_SOAK sets the number of runs."""
    for seed in range(SOAK):
        servers = 1 + seed % 2
        stragglers = ("none", f"fixed:rank={seed % 6},factor=20", "pareto:alpha=1.1")[seed % 3]
        outcome = execute(
            comm,
            program,  # type: ignore[arg-type]
            share(comm, "quadratic:dim=10", servers=servers),
            1 + seed % 5,
            stragglers=stragglers,
            compute_time=2e-4,
            seed=seed,
            servers=servers,
        )
        assert comm.allreduce(len(outcome.steps)) == (8 - servers) * (1 + seed % 5)
