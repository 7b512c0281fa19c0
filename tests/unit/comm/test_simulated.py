"""Simulated ranks: what MPI promises of messages, collectives, threads and errors, and times told by head."""

from typing import Any

import numpy as np
import pytest
from mpi4py import MPI
from simple_network import on_ranks

from outpace.comm import clock, threads
from outpace.comm.errors import UserError
from outpace.comm.events import Deadlock
from outpace.comm.matching import EAGER_NBYTES


def got(comm: Any, *receives: tuple[int, int]) -> list[tuple[int, int, int]]:
    """(value, source, tag) of a message of one number for each (source, tag)."""
    found = []
    for source, tag in receives:
        number, status = np.empty(1, dtype=np.int64), MPI.Status()
        comm.Recv(number, source, tag, status)
        found.append((int(number[0]), status.source, status.tag))
    return found


def test_messages_of_a_pair_come_in_order_and_by_their_tags() -> None:
    def program(comm: Any) -> Any:
        if comm.rank:
            for value, tag in ((1, 7), (2, 7), (3, 8)):
                comm.Send(np.array([10 * comm.rank + value]), 0, tag)
            return None
        clock.sleep(comm, 1.0)  # all are there
        first = got(comm, (2, 8), (1, 7), (1, 7))
        return first, sorted(got(comm, *[(MPI.ANY_SOURCE, MPI.ANY_TAG)] * 3))

    specific, rest = on_ranks(3, program)[0]
    assert specific == [(23, 2, 8), (11, 1, 7), (12, 1, 7)]
    assert rest == [(13, 1, 8), (21, 2, 7), (22, 2, 7)]


def test_receives_get_messages_in_the_order_in_which_they_are_posted() -> None:
    """One of any rank stands between two of rank 1: whoever looks at one queue first gives it the wrong message."""

    def program(comm: Any) -> Any:
        if comm.rank:
            for value in (1.0, 2.0, 3.0):
                comm.Send(np.array([value]), 0)
            return None
        numbers = np.zeros(3)
        posted = [comm.Irecv(numbers[i : i + 1], source) for i, source in enumerate((1, MPI.ANY_SOURCE, 1))]
        clock.wait(comm, posted)
        return numbers.tolist()

    assert on_ranks(2, program)[0] == [1.0, 2.0, 3.0]


def test_a_buffer_is_free_when_its_request_is_over() -> None:
    """A small message leaves at once; a large one stays in its buffer until it is received."""

    def program(comm: Any) -> Any:
        x = np.full(EAGER_NBYTES // 4, 1.0)
        if comm.rank:
            clock.sleep(comm, 1.0)
            small, large = np.zeros(1), np.zeros_like(x)
            comm.Recv(small, 0)
            comm.Recv(large, 0)
            return small[0], large[-1]
        comm.Send(x[:1], 1)
        x[0], small_s = 2.0, comm.now()
        comm.Send(x, 1)
        return small_s, comm.now()

    (small_s, large_s), received = on_ranks(2, program)
    assert received == (1.0, 1.0)
    assert small_s < 1e-6
    assert large_s > 1.0


def test_large_messages_move_while_both_sides_are_inside_mpi() -> None:
    """A rank that computes for a second after its receive was posted gets the message only then; a small one, and a
    large one to a rank whose other thread waits in MPI, meanwhile."""

    def times(comm: Any, nbytes: int, thread: bool) -> float:
        x = np.zeros(nbytes, np.uint8)
        arrived: list[float] = []

        def wait(request: Any) -> None:
            request.Wait()
            arrived.append(comm.now())

        if comm.rank:
            comm.Send(x, 0)
            return 0.0
        request = comm.Irecv(x, 1)
        waiter = threads.start(comm, wait, request) if thread else None
        clock.sleep(comm, 1.0)
        if waiter:
            waiter.join()
        else:
            wait(request)
        return arrived[0]

    large_s = 1e-4 + 4 * EAGER_NBYTES / 1e8
    assert on_ranks(2, times, 4 * EAGER_NBYTES, False)[0] == pytest.approx(1.0 + large_s)
    assert on_ranks(2, times, 4 * EAGER_NBYTES, True)[0] == pytest.approx(1e-4 + large_s)
    assert on_ranks(2, times, 8, False)[0] == pytest.approx(1.0)


def test_what_a_rank_has_sent_arrives_after_its_end() -> None:
    """A long message moves while both sides are inside MPI, as a rank is that has come to its end."""

    def program(comm: Any) -> float:
        x = np.zeros(EAGER_NBYTES)
        if comm.rank:
            comm.Isend(x + 1, 0)
            return 0.0
        clock.sleep(comm, 1.0)
        comm.Recv(x, 1)
        return float(x.mean())

    assert on_ranks(2, program)[0] == 1.0


def test_collectives_are_those_of_mpi() -> None:
    def program(comm: Any) -> Any:
        n, rank = comm.size, comm.rank
        x = np.array([rank + 1.0, -rank])
        most, blocks, gathered, told = np.empty(2), np.empty(n), np.empty((n, 2)), np.full(1, rank)
        clock.sleep(comm, 0.1 * rank)  # whoever comes first, the sum is that of the ranks in order
        comm.Allreduce(x, most, MPI.MAX)
        comm.Allreduce(MPI.IN_PLACE, x)
        comm.Alltoall(np.arange(n) + 10.0 * rank, blocks)
        mine = np.zeros((n, 1))
        mine[rank] = rank
        comm.Allgather(MPI.IN_PLACE, mine)
        comm.Gather(np.full(2, rank, dtype=float), gathered if rank == 1 else None, 1)
        comm.Bcast(told, 2)
        half = comm.Split(rank % 2)
        objects = comm.bcast([rank], 1), comm.allgather(rank), comm.allreduce(rank, MPI.MAX), half.allgather(rank)
        return x, most, blocks, mine.ravel(), gathered if rank == 1 else None, told, objects

    for rank, (x, most, blocks, mine, gathered, told, objects) in enumerate(on_ranks(3, program)):
        assert (x.tolist(), most.tolist()) == ([6.0, -3.0], [3.0, 0.0])
        assert blocks.tolist() == [rank, rank + 10.0, rank + 20.0]
        assert mine.tolist() == [0.0, 1.0, 2.0]
        assert gathered is None or gathered.tolist() == [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]
        assert told == 2
        assert objects == ([1], [0, 1, 2], 2, [0, 2] if rank != 1 else [1])


def test_nobody_waits_for_more_than_its_neighbours() -> None:
    """On a path 0 - 1 - 2 - 3 the last is late: 0 and 1 do not feel it in their first exchange, 2 does."""

    def program(comm: Any) -> Any:
        hears = [rank for rank in (comm.rank - 1, comm.rank + 1) if 0 <= rank < comm.size]
        graph = comm.Create_dist_graph_adjacent(hears, hears)
        own, heard = np.full(1, float(comm.rank)), np.empty(len(hears))
        if comm.rank == 3:
            clock.sleep(comm, 1.0)
        graph.Ineighbor_allgather(own, heard).Wait()
        own[:] = -1.0  # what a late neighbour gets is what was sent
        return heard.tolist(), comm.now(), comm.meter.nbytes.tolist()

    heard, times, sent = zip(*on_ranks(4, program), strict=True)
    assert heard == ([1.0], [0.0, 2.0], [1.0, 3.0], [2.0])
    assert [t > 1.0 for t in times] == [False, False, True, True]
    assert sent[1] == [8, 0, 8, 0]


def test_a_message_longer_than_its_buffer_and_a_rank_that_is_not_there_are_errors_of_mpi() -> None:
    def longer(comm: Any) -> None:
        if comm.rank:
            comm.Send(np.zeros(2), 0)
        else:
            comm.Recv(np.zeros(1), 1)

    for program, error in ((longer, MPI.ERR_TRUNCATE), (lambda comm: comm.Recv(np.zeros(1), 2), MPI.ERR_RANK)):
        with pytest.raises(MPI.Exception) as raised:
            on_ranks(2, program)
        assert raised.value.Get_error_class() == error


def test_a_standstill_names_who_waits_for_what() -> None:
    def program(comm: Any) -> None:
        if comm.rank == 1:
            comm.Recv(np.zeros(1), 0, 7)
        elif comm.rank == 2:
            comm.Barrier()
        elif comm.rank == 3:
            threads.start(comm, threads.channel(comm).get).join()

    with pytest.raises(Deadlock) as raised:
        on_ranks(4, program)
    text = str(raised.value)
    for part in ("rank 1 waits for a message of rank 0 with tag 7", "rank 2 waits for the others at barrier"):
        assert part in text
    assert "rank 3 waits for something in a channel" in text
    assert "\n" not in text


def test_what_is_not_simulated_says_so() -> None:
    with pytest.raises(UserError, match="Reduce_scatter of a communicator is not simulated"):
        on_ranks(2, lambda comm: comm.Reduce_scatter(np.zeros(2), np.zeros(1)))
    with pytest.raises(AttributeError, match="has no Frobnicate"):
        on_ranks(1, lambda comm: comm.Frobnicate())
    with pytest.raises(UserError, match="rank 1 is at bcast where others are at barrier"):
        on_ranks(2, lambda comm: comm.bcast(1) if comm.rank else comm.Barrier())


def test_an_error_of_one_rank_ends_all() -> None:
    ended = []

    def program(comm: Any) -> None:
        try:
            if comm.rank == 1:
                clock.sleep(comm, 0.5)
                raise RuntimeError("no")
            comm.Recv(np.zeros(1), 1)
        finally:
            ended.append(comm.rank)

    with pytest.raises(RuntimeError) as raised:
        on_ranks(3, program)
    assert raised.value.__notes__ == ["on rank 1, in program"]
    assert sorted(ended) == [0, 1, 2]


def test_threads_locks_and_channels_are_those_of_a_rank() -> None:
    def program(comm: Any) -> Any:
        lock, channel, flag, told = threads.lock(comm), threads.channel(comm), threads.event(comm), []

        def hold(name: str) -> None:
            with lock:
                told.append((name, comm.now()))
                clock.sleep(comm, 1.0)
            channel.put(name)

        holders = [threads.start(comm, hold, name) for name in "ab"]
        first = clock.poll(comm, lambda: None if channel.empty() else channel.get())
        flag.set()
        names = [first, channel.get()]
        for holder in holders:
            holder.join()
        assert flag.is_set()
        return told, names, comm.now()

    assert on_ranks(1, program)[0] == ([("a", 0.0), ("b", 1.0)], ["a", "b"], 2.0)


def test_the_processor_and_naps_are_charged() -> None:
    def program(comm: Any) -> float:
        if comm.rank:
            clock.sleep(comm, 1.0)
            comm.Send(np.zeros(1), 0)
        else:
            clock.wait(comm, [comm.Irecv(np.zeros(1), 1)])
            comm.Send(np.zeros(1), 1)  # after the work of what it has received, and its own
        return float(comm.now())

    way_s = 1e-4 + 8 / 1e8
    received_s, sent_s = on_ranks(2, program, cpu_s=0.01, nap_s=0.001)
    assert received_s == pytest.approx(1.0 + 0.01 + way_s + 0.001 + 0.01 + 0.01)
    assert sent_s == pytest.approx(1.0 + 0.01)
