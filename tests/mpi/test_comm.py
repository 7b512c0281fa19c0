"""The shared floor: budgets, the meter, clocks, agreement."""

import itertools
import os
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from harness import CheckedComm
from mpi4py import MPI

from outpace.benchmarks.running import attributes
from outpace.benchmarks.trace.recorder import Trace
from outpace.benchmarks.trace.snapshots import Snapshots
from outpace.comm import agreement, clock, native, threads, time_slice, vectors
from outpace.comm import budget as budgets
from outpace.comm.budget import AgreedSteps, Budget, ServedGradients, Stop
from outpace.comm.errors import UserError
from outpace.comm.layout import Layout
from outpace.comm.meter import MeteredComm
from outpace.comm.server import ask, exchanges, leave
from outpace.comm.tickets import SharedCount, SharedTickets


def begin(comm: CheckedComm) -> float:
    comm.Barrier()
    return clock.now(comm)


def tickets(comm: CheckedComm, total: int) -> SharedTickets:
    return SharedTickets(
        comm, total, None, lambda: begin(comm), Trace(comm, Snapshots(0, 1, np.dtype("f8"), per_step=True))
    )


def counted(comm: CheckedComm, seconds: float | None = None) -> SharedCount:
    return SharedCount(comm, seconds, lambda: begin(comm))


def granted(comm: CheckedComm, total: int) -> ServedGradients:
    return ServedGradients(comm, total, None, lambda: begin(comm), Layout(comm.size - 1, 1))


def agreed(comm: CheckedComm, period: int, seconds: float | None = None) -> AgreedSteps:
    return AgreedSteps(comm, None, seconds, lambda: begin(comm), period, hops=1)


@pytest.mark.ranks(1, 2, 3, 4)
def test_tickets_that_were_not_used_are_handed_out_later(comm: CheckedComm) -> None:
    """Ended early again and again, and taken up by a new budget from what was saved: each k once in all, and `count`
    is the number used so far. Batches that are lost or counted when a loop ends show."""
    taken: list[int] = []
    before, saved = 0, {}
    for end in range(100):
        budget = tickets(comm, 200)
        budget.count, budget.saved = before, saved
        for mine, k in enumerate(budget, 1):
            taken.append(k)
            if comm.rank == end % comm.size and mine == 7:
                budget.stop(Stop.CHECKPOINT)
            time.sleep(1e-4 * (1 + comm.rank))
        budget.settle()
        saved = budget.save()
        before = comm.bcast(budget.count)
        everyones = sorted(itertools.chain.from_iterable(comm.allgather(taken)))
        assert len(everyones) == before
        if before == 200:
            break
    assert end > 0
    assert everyones == list(range(200))


@pytest.mark.ranks(1)
def test_batches_get_smaller_towards_the_end(comm: CheckedComm) -> None:
    """Asked for 40 tickets at a time, of 100: a quarter of those left, but no fewer than 10, so that nobody is left
    with many when the others are done."""
    budget = tickets(comm, 100)
    sizes = [len(batch) for batch in iter(lambda: budget._take(40), range(0))]
    assert sizes == [25, 18, 14, 10, 10, 10, 10, 3]


@pytest.mark.ranks(2)
def test_the_desk_is_not_favoured(comm: CheckedComm) -> None:
    """Two equal workers, which hold Python's lock for their 50 us of work: of tickets handed out one by one the desk
    would get two in three or more, every time. Once in five is enough here: where other processes keep a core busy, the
    two are not equal."""
    total, most = 20_000, []
    while len(most) < 5 and min(most, default=1.0) > 0.6:
        count = 0
        budget = tickets(comm, total)
        for _ in budget:
            count += 1
            end = time.perf_counter() + 5e-5
            while time.perf_counter() < end:
                pass
        budget.settle()
        most.append(max(comm.allgather(count)) / total)
    assert min(most) < 0.6


def test_every_ticket_is_handed_out_once(comm: CheckedComm) -> None:
    taken = []
    budget = tickets(comm, 57)
    for k in budget:
        taken.append(k)
        time.sleep(0.001 * (1 + comm.rank))
    budget.settle()
    assert sorted(itertools.chain.from_iterable(comm.allgather(taken))) == list(range(57))
    if comm.size > 1:
        assert 0 < len(taken) < 57


def test_gradients_are_counted_where_only_time_is_limited(comm: CheckedComm) -> None:
    """Ended and taken up three times: the desk's count is that of all gradients, whoever computed them, and the k that
    a worker sees are all before it, rise, and follow the count, which the own gradients alone would not."""
    made, last, budget = 0, -1, counted(comm)
    for _ in range(3):
        seen, before = list[int](), made
        for k in budget:
            seen.append(k)
            time.sleep(0.001)
            if len(seen) == 100 + 20 * comm.rank:
                budget.stop(Stop.CHECKPOINT)
        budget.settle()
        budget.go_on()
        made += sum(comm.allgather(len(seen)))
        assert comm.bcast(budget.count) == made
        assert (np.diff([last, *seen]) > 0).all()
        last = seen[-1]
        assert before + comm.size * len(seen) / 2 <= last < made


@pytest.mark.ranks(2, 3, 4)
@pytest.mark.parametrize("who", ["worker", "server"])
def test_answers_grant_each_gradient_once(comm: CheckedComm, who: str) -> None:
    """A worker or the server wants to stop: the loops end soon, and `count` tells of each gradient. From late counts on
    they go on to the end: none more are made than are left, be that less than one for each worker."""
    server, total, x = comm.size - 1, 1000, np.zeros(3)
    stopping = server if who == "server" else 0
    for count in (0, 500, total - 20, total - 1):
        made, budget = 0, granted(comm, total)
        budget.count = count
        if comm.rank == server:
            with budget.attend():
                for came, (_, _, answer) in enumerate(exchanges(comm, server, x, budget.more)):
                    if came == 6 and stopping == server and count <= 500:
                        budget.stop(Stop.CHECKPOINT)
                    answer()
        else:
            for k in budget:
                made += 1
                time.sleep(0.001)
                if k == 2 and comm.rank == stopping and count <= 500:
                    budget.stop(Stop.CHECKPOINT)
                if not ask(comm, {server: slice(None)}, x, x.copy(), budget.reason):
                    break
            leave(comm, [server], budget.reason)
        budget.settle()
        assert sum(comm.allgather(made)) == budget.count - count
        assert budget.count < total - 100 if count <= 500 else budget.count == total


@pytest.mark.ranks(2, 4)
def test_ranks_bound_to_cores_are_a_crowd_only_where_they_share_one(comm: CheckedComm) -> None:
    cores = os.sched_getaffinity(0)
    mine = sorted(cores)[comm.rank % len(cores)]
    try:
        os.sched_setaffinity(0, {mine})
        clock.share_cores(comm)
        found = clock.ranks_per_core()
    finally:
        os.sched_setaffinity(0, cores)
        clock._told.clear()
    assert found == comm.allgather(mine).count(mine)


@pytest.mark.parametrize("ranks", [clock.CROWD, clock.CROWD + 1])
def test_a_crowd_asks_for_short_time_slices(comm: CheckedComm, ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened: list[None] = []
    monkeypatch.setattr(clock, "crowd", lambda *_: float(ranks))
    monkeypatch.setattr(clock, "_told", [])
    monkeypatch.setattr(time_slice, "shorten", lambda: shortened.append(None))
    clock.share_cores(comm)
    assert len(shortened) == (ranks > clock.CROWD)


@pytest.mark.parametrize("reason", [Stop.TIME, Stop.DIVERGED])
@pytest.mark.parametrize("shared", [False, True])
def test_early_ends_are_agreed(comm: CheckedComm, shared: bool, reason: Stop) -> None:
    """The last rank alone wants to stop. Synchronous loops end at one k on every rank, and every loop ends soon."""
    budget: Budget = counted(comm) if shared else agreed(comm, 3)
    count = 0
    for _ in budget:
        count += 1
        assert count < 2000
        if comm.rank == comm.size - 1 and count == 10:
            budget.stop(reason)
        if shared:
            time.sleep(0.001)
        else:
            comm.Barrier()  # as a synchronous program would
    budget.settle()
    if not shared:
        assert comm.allgather(count) == [count] * comm.size
        assert count <= 10 + 2 * 3
        assert budget.reason == reason


def test_long_steps_are_agreed_on_one_by_one(comm: CheckedComm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last rank's steps are long, and after some of them it wants to stop: that takes two more, not two periods."""
    monkeypatch.setattr(budgets, "LONG_S", 0.002)
    count = 0
    stepping = agreed(comm, 8)
    for _ in stepping:
        count += 1
        if comm.rank == comm.size - 1:
            time.sleep(0.005)
            if count == 20:
                stepping.stop(Stop.SIGNAL)
        comm.Barrier()
    assert comm.allgather(count) == [count] * comm.size
    assert 20 <= count <= 22


@pytest.mark.ranks(2, 3, 4)
@pytest.mark.parametrize(("long_s", "times"), [(1e3, 4), (1e-9, 49)])
def test_short_steps_are_agreed_on_now_and_then(
    long_s: float, times: int, comm: CheckedComm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 steps: every period of 16, or one by one once it is known that they are long."""
    monkeypatch.setattr(budgets, "LONG_S", long_s)
    comm.meter.reset()
    assert len(list(AgreedSteps(comm, 64, None, lambda: begin(comm), period=16, hops=1))) == 64
    assert comm.meter.messages.sum() == times * 2 * (comm.size - 1)


@pytest.mark.parametrize("shared", [False, True])
def test_time_budget(comm: CheckedComm, shared: bool) -> None:
    budget: Budget = counted(comm, 0.2) if shared else agreed(comm, 2, 0.2)
    start = time.monotonic()
    for _ in budget:
        time.sleep(0.005)
        if not shared:
            comm.Barrier()
    budget.settle()
    assert 0.19 < time.monotonic() - start < 1.5


@pytest.mark.ranks(1)
def test_checkpoints_do_not_move_the_deadline(comm: CheckedComm) -> None:
    """0.4 s in all, of loops that end after 0.1 s each; a deadline that begins anew with every loop never comes."""
    budget = AgreedSteps(comm, None, 0.4, lambda: begin(comm), period=1, hops=1, every=0.1)
    for loops in range(20):  # noqa: B007
        for _ in budget:
            time.sleep(0.005)
        if budget.reason is not Stop.CHECKPOINT:
            break
        budget.go_on()
    assert budget.reason is Stop.TIME
    assert loops > 0


@pytest.mark.ranks(1, 2)
def test_the_gravest_reason_to_stop_counts(comm: CheckedComm) -> None:
    """Whichever came last, and on every rank: a run that has diverged is not one whose time is up."""
    budget = agreed(comm, 1)
    for _ in budget:
        if comm.rank == 0:
            budget.stop(Stop.DIVERGED)
        budget.stop(Stop.TIME)
        comm.Barrier()
    assert budget.reason is Stop.DIVERGED


@pytest.mark.ranks(2, 3, 4)
def test_agreed_steps_wait_for_nobody(comm: CheckedComm) -> None:
    """With a period of the graph's diameter, the agreement does not tie a fast rank to a slow one more tightly than
    the period: rank 0 may be that far ahead of the last rank."""
    period, lead = 4, []
    for k in AgreedSteps(comm, 40, None, lambda: begin(comm), period=period, hops=period):
        if comm.rank == comm.size - 1:
            time.sleep(0.003)
        lead.append((time.monotonic(), k))
    starts = comm.allgather(np.array([t for t, _ in lead]))
    ahead = max(np.searchsorted(starts[0], t) - k for k, t in enumerate(starts[-1]))
    assert period <= ahead <= 2 * period + 1


def test_meter_charges_what_is_sent(comm: CheckedComm) -> None:
    n, rank = comm.size, comm.rank
    right, left = (rank + 1) % n, (rank - 1) % n
    comm.meter.reset()
    dup = comm.Dup()
    sent, received = np.arange(5.0), np.empty(5)
    if n > 1:
        request = dup.Isend(sent, right, 3)
        dup.Recv(received, left, 3)
        request.Wait()
        dup.Sendrecv(sent, right, 4, received, left, 4)
        dup.Isend([None, MPI.BYTE], right, 5).Wait()
        dup.Recv([None, MPI.BYTE], left, 5)
        assert comm.meter.nbytes[right] == 80
        assert comm.meter.messages[right] == 3
        assert comm.meter.nbytes.sum() == 80
    comm.meter.reset()
    total = np.ones(11, dtype="f4")
    dup.Allreduce(MPI.IN_PLACE, total)
    assert (total == n).all()
    # a ring moves 2(n-1) times the vector in all, to the byte
    assert dup.allreduce(int(comm.meter.nbytes.sum())) == 2 * (n - 1) * 44
    assert (np.flatnonzero(comm.meter.nbytes) == ([right] if n > 1 else [])).all()
    dup.Free()


@pytest.mark.ranks(1, 2, 3, 4)
def test_meter_of_collectives(comm: CheckedComm) -> None:
    """Of a duplicate, in the meter of its origin: who is charged for how much, by hand, for blocks of 24 bytes."""
    n, rank = comm.size, comm.rank
    origin = MeteredComm(MPI.Intracomm(comm).Dup())
    dup, block, blocks = origin.Dup(), np.ones(3), np.ones((n, 3))
    right, root = (rank + 1) % n, n - 1
    others = [24 * (peer != rank) for peer in range(n)]

    def to(peer: int, nbytes: int) -> list[int]:
        return [nbytes * (each == peer) for each in range(n)]

    for call, sent in (
        (lambda: dup.Bcast(block, root), to(right, 24 * (right != root))),
        (lambda: dup.Gather(block, blocks if rank == root else None, root), to(root, 24 * (rank != root))),
        (lambda: dup.Allgather(block, blocks), to(right, 24 * (n - 1))),
        (lambda: dup.Alltoall(np.ones((n, 3)), blocks), others),
    ):
        origin.meter.reset()
        call()
        assert origin.meter.nbytes.tolist() == sent
    dup.Free()
    origin.Free()


def test_meter_of_a_graph(comm: CheckedComm) -> None:
    peers = [rank for rank in range(comm.size) if rank != comm.rank]
    graph = comm.Create_dist_graph_adjacent(peers, peers)
    comm.meter.reset()
    received = np.empty((len(peers), 3))
    graph.Ineighbor_allgather(np.full(3, float(comm.rank)), received).Wait()
    assert (received[:, 0] == peers).all()
    assert [int(v) for v in comm.meter.nbytes] == [24 * (rank != comm.rank) for rank in range(comm.size)]
    graph.Free()


def test_offset_of_a_skewed_clock(comm: CheckedComm) -> None:
    """Every rank's clock is set 1000 s per rank apart and runs 1e-3 fast; ping-pong finds both to its own uncertainty,
    and aligned stamps of one moment agree. A sign error is off by thousands of seconds."""
    rate = 1 + 1e-3 * (comm.rank > 0)
    origin = time.monotonic()

    def skewed() -> float:
        return 1000.0 * comm.rank + rate * (time.monotonic() - origin)

    # all ranks share one node here, so the true offset of a stamp can be computed
    origin = comm.bcast(origin)
    start = clock.offset(comm, skewed)
    time.sleep(0.3)
    end = clock.offset(comm, skewed)
    alignment = clock.Alignment(start, end)
    comm.Barrier()
    local, true = skewed(), time.monotonic() - origin
    aligned = float(alignment.to_root(np.array([local]))[0])
    assert abs(aligned - true) < 5e-4 + 3 * alignment.uncertainty
    if comm.rank:
        assert start.uncertainty > 0
        assert abs(alignment.drift + 1e-3) < 1e-3
    assert clock.offset(comm).seconds == 0  # one node, one clock


def test_errors_of_one_rank_are_everybodys(comm: CheckedComm) -> None:
    def fail_on_last() -> int:
        if comm.rank == comm.size - 1:
            raise UserError("the last rank cannot")
        return 1

    with pytest.raises(UserError, match="the last rank cannot"):
        agreement.together(comm, fail_on_last)
    assert agreement.on_root(comm, lambda: 5) == (5 if comm.rank == 0 else None)


def test_wait_sleeps(comm: CheckedComm) -> None:
    """Waiting 0.3 s for a message costs little processor time: a rank that polls without sleeping takes all of it."""
    if comm.size == 1:
        pytest.skip("needs a peer")
    buffer, status = np.empty(1), MPI.Status()
    if comm.rank == 0:
        time.sleep(0.3)
        for rank in range(1, comm.size):
            comm.Send(np.array([5.0]), rank, 9)
        return
    before = time.thread_time()
    clock.wait(comm, [comm.Irecv(buffer, MPI.ANY_SOURCE, MPI.ANY_TAG)], [status])
    assert time.thread_time() - before < 0.1
    assert (buffer[0], status.source, status.tag) == (5.0, 0, 9)


def test_threads_use_the_device_of_their_starter(comm: CheckedComm, monkeypatch: pytest.MonkeyPatch) -> None:
    """With several GPUs in sight a new thread would be on the first one."""
    used = []

    class Device:
        """CuPy's: without an argument the one that the calling thread uses."""

        def __init__(self) -> None:
            self.of = threading.current_thread()

        def use(self) -> None:
            used.append((self.of, threading.current_thread()))

    cuda = SimpleNamespace(is_available=lambda: True, Device=Device)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    thread = threads.start(comm, lambda: None)
    thread.join()
    assert used == [(threading.current_thread(), thread)]


def test_threads_return_what_they_are_given(comm: CheckedComm) -> None:
    box, lock = threads.channel(comm), threads.lock(comm)

    def work(a: int, b: int) -> None:
        with lock:
            box.put(a + b)

    threads.start(comm, work, 2, 3).join()
    assert box.get() == 5


@pytest.mark.ranks(2, 4)
@pytest.mark.parametrize(("without", "told"), [([], "compiled"), ([1], "NumPy: on rank 1, no compiler")])
def test_a_rank_without_a_compiler_is_named(
    comm: CheckedComm, without: list[int], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a node that differs from the others."""

    def loop(*_: object) -> None:
        raise native.Unbuilt("no compiler")

    if comm.rank in without:
        monkeypatch.setattr(vectors, "loop", loop)
    plan = SimpleNamespace(config=SimpleNamespace(dtype="float32"))
    assert attributes._of_cpus(comm, plan) == {"vector_passes": told}
