"""The asynchronous-progress certificate, against loads of which the answer is known."""

import time

import pytest
from harness import CheckedComm, in_time

from outpace.benchmarks.machine import async_progress


@pytest.mark.ranks(2, 3)
def test_certificate_tells_a_sleeping_rank_from_one_that_keeps_the_lock(comm: CheckedComm) -> None:
    """A rank that sleeps answers at once. One inside C code that keeps the GIL for 40 ms and more at a time answers
    when it comes out, and rank 0 learns so by waiting."""
    numbers = 100_000
    while min(_seconds(numbers) for _ in range(5)) < 0.04:  # a single one may have been interrupted
        numbers *= 2
    loads = [lambda: time.sleep(0.04), lambda: sum(range(numbers))]

    def once() -> str:
        sleeping, holding = async_progress.waits(comm, loads, target=comm.size - 1, prober=0)
        assert comm.allgather((sleeping, holding)) == [(sleeping, holding)] * comm.size  # one truth for all ranks
        told = async_progress.verdict(sleeping), async_progress.verdict(holding)
        holds = told == ("wait-free", "progress-limited") and holding > 0.02
        return "" if holds else f"{told} by {sleeping:.3g} and {holding:.3g} s"

    in_time(comm, once)


@pytest.mark.ranks(2)
def test_slow_answers_are_asked_for_less_often(comm: CheckedComm) -> None:
    """Where many ranks share a core an answer may take a second, and ten of them would be the start's longest part."""
    numbers = 1_000_000
    while min(_seconds(numbers) for _ in range(2)) < 0.2:
        numbers *= 2
    trips = async_progress._probe(comm, lambda: sum(range(numbers)), target=1, prober=0)
    assert async_progress.LEAST_PINGS <= len(trips) < async_progress.PINGS


@pytest.mark.ranks(2, 3)
def test_a_server_has_no_load(comm: CheckedComm) -> None:
    """The last rank serves and asks; the others compute."""
    server = comm.size - 1
    load = None if comm.rank == server else lambda: time.sleep(0.01)

    def once() -> str:
        (wait_s,) = async_progress.waits(comm, [load], target=server - 1, prober=server)
        return "" if 0 < wait_s < 0.01 else f"the server waits for {wait_s:.3g} s"

    in_time(comm, once)


def _seconds(numbers: int) -> float:
    start = time.perf_counter()
    sum(range(numbers))
    return time.perf_counter() - start
