"""Waiting, on a clock that only sleeping and yielding move."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from mpi4py import MPI

from outpace.comm import clock
from outpace.comm.layout import Layout
from outpace.comm.tickets import SharedTickets


class Simulated:
    """Time that passes where somebody waits, how often somebody looked, and how often he slept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ranks: int, cores: int) -> None:
        self.now_s, self.looks, self.naps = 0.0, 0, 0
        monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: self.now_s, sleep=self._sleep))
        system = SimpleNamespace(
            environ={"MPI_LOCALNRANKS": str(ranks)},
            sched_getaffinity=lambda _: set(range(cores)),
            sched_yield=lambda: self._pass(1e-6),
        )
        monkeypatch.setattr(clock, "os", system)
        clock._by_launcher.cache_clear()

    def _pass(self, seconds: float) -> None:
        self.now_s += seconds

    def _sleep(self, seconds: float) -> None:
        self.naps += 1
        self._pass(seconds)

    def wait(self, until_s: float, under_way: bool = False) -> tuple[int, float]:
        """How often it is looked for what comes at that time, and how late it is found."""
        self.looks, self.naps, start = 0, 0, self.now_s

        def there() -> bool:
            self.looks += 1
            return self.now_s >= start + until_s

        clock._poll(there, clock._spin_s(under_way))
        return self.looks, self.now_s - start - until_s


@pytest.fixture(autouse=True)
def _real_again() -> object:
    yield
    clock._by_launcher.cache_clear()
    clock._told.clear()


def test_ranks_that_share_cores_look_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that waits 5 ms, 200 times a second, for 64 ranks on two cores: a look costs some microseconds, and they
    have 31 of each millisecond. Nothing is found later than by half of the wait."""
    time = Simulated(monkeypatch, ranks=64, cores=2)
    looks, late_s = time.wait(0.005)
    assert looks <= 20
    assert late_s <= 0.0025
    looks, late_s = time.wait(1.0)
    assert looks <= 300
    assert late_s <= 0.005


@pytest.mark.parametrize("under_way", [False, True])
def test_a_communication_thread_in_a_crowd_takes_few_looks(monkeypatch: pytest.MonkeyPatch, under_way: bool) -> None:
    """Its gradient waits for none of them. Of 32 ranks on two cores it finds what it waits for within 2 ms; what is
    under way it looks for at once for a moment, in a gradient loop as long as ever."""
    time = Simulated(monkeypatch, ranks=32, cores=2)
    with ThreadPoolExecutor(1) as thread:
        _, late_s = thread.submit(time.wait, 0.005, under_way).result()
        assert late_s <= 0.002
        assert time.naps <= 3
        _, late_s = thread.submit(time.wait, 1e-4, under_way).result()
        assert (late_s <= 2e-6) == under_way
    time.wait(0.005, under_way)
    assert (time.naps == 0) == under_way


def test_ranks_with_a_core_each_look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Simulated(monkeypatch, ranks=2, cores=2)
    assert time.wait(1e-4)[1] < 3e-6
    assert time.wait(0.005)[1] <= 0.0005


@pytest.mark.parametrize(("ranks", "sleeps"), [(2, False), (3, True)])
def test_a_gradient_loop_does_not_sleep_on_a_core_of_its_own(
    monkeypatch: pytest.MonkeyPatch, ranks: int, sleeps: bool
) -> None:
    """What comes after 5 ms is found at once, unless ranks share the cores; a communication thread shares one with its
    own gradient loop, and sleeps in any case."""
    time = Simulated(monkeypatch, ranks=ranks, cores=2)
    time.wait(0.005)
    assert bool(time.naps) == sleeps
    with ThreadPoolExecutor(1) as thread:
        thread.submit(time.wait, 0.005).result()
    assert time.naps


@pytest.mark.parametrize("workers", [2, 32, 1000])
def test_the_desk_is_asked_a_thousand_times_a_second_at_most(workers: int) -> None:
    budget = SharedTickets(MPI.COMM_SELF, 100, None, lambda: 0.0, None, Layout(workers))
    assert workers / budget._batch_s <= 1001
    assert budget._batch_s >= 0.005
