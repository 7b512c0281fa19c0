"""The budget of a run: `for k in budget:` is the loop of every program.

A synchronous program counts its own steps and every rank leaves the loop at the same k (`AgreedSteps`). An asynchronous
one shares the budget, and k counts the gradients of all workers (`tickets`, `ServedGradients`), or the rounds of its
server (`ServedRounds`). All end early when the time is up, on a signal and when a gradient is not finite.

A checkpoint is an early end as well: no message is under way then, so the run is what its programs `keep`. Whoever
calls `run` again with the same budget, or with one whose `saved` and `count` were read from a file, goes on at that k.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, Final

import numpy as np
from mpi4py import MPI

from outpace.comm import clock, state, threads
from outpace.comm.layout import Layout

LONG_S: Final = 0.1  # of a step: the agreements on an end then cost next to nothing


class Stop(IntEnum):
    """Why a loop ends before its budget is used up; the largest one counts."""

    NO = 0
    CHECKPOINT = 1
    DONE = 2  # the program has found what it sought
    TIME = 3
    SIGNAL = 4
    DIVERGED = 5


class Budget:
    """`total` rounds (None: no limit) and `seconds` (None: no limit), whichever ends first.

    `start` is called on every rank when the first loop begins and returns the start of the timed part on the local
    clock; what a program does before its loop is set-up and not timed. With `every` a loop ends for a checkpoint
    after so many seconds.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        total: int | None,
        seconds: float | None,
        start: Callable[[], float],
        every: float | None = None,
    ) -> None:
        self.comm = comm
        self.total = total
        self.seconds = seconds
        self._now = clock.reader(comm)
        self._start = start
        self._every = every
        self._started = False
        self._deadline = self._checkpoint_due = np.inf
        self._stopping = threads.lock(comm)  # signals come in a thread of their own
        self.reason = Stop.NO
        self.count = 0  # rounds begun; where tickets are shared, those that the desk has handed out
        self.desk = 0  # the rank whose count is the run's
        self.saved: dict[str, state.Captured] = {}  # what the last checkpoint holds of this rank
        self._kept: dict[str, Any] = {}

    def keep(self, **things: Any) -> None:
        """What a program needs to go on: arrays and NumPy generators, by name, which it changes in place only.

        Called before the loop. Where the run goes on from a checkpoint, it fills them with what was saved.
        """
        self._kept |= things
        for name in things.keys() & self.saved.keys():
            state.restore(things[name], self.saved[name])

    def save(self) -> dict[str, state.Captured]:
        """A copy of all that the program keeps, from which the next loop will go on; between two loops."""
        self.saved = {name: state.capture(thing) for name, thing in self._kept.items()}
        return self.saved

    def settle(self) -> None:
        """Collective, after a loop whose ranks ended it each by itself: `count` is the run's, at the desk, and no
        message of the budget is under way."""

    def stop(self, reason: Stop) -> None:
        """Ask for an early end, from any thread of any rank; the loops end as soon as it can be agreed."""
        with self._stopping:
            self.reason = max(self.reason, reason)

    def go_on(self) -> None:
        """The checkpoint for which the loop ended is done."""
        with self._stopping:
            if self.reason is Stop.CHECKPOINT:
                self.reason = Stop.NO

    def _begin(self) -> None:
        if not self._started:
            self._started = True
            started = self._start()
            if self.seconds is not None:
                self._deadline = started + self.seconds
        if self._every is not None:
            self._checkpoint_due = self._now() + self._every

    def _look(self) -> Stop:
        now = self._now()
        if now >= self._deadline:
            self.stop(Stop.TIME)
        elif now >= self._checkpoint_due:
            self.stop(Stop.CHECKPOINT)
        return self.reason


class ServedRounds(Budget):
    """k = 0, 1, ... of the rounds of one server, the `desk`.

    Workers go on until it tells them to leave, by a message of the program's own. So every loop ends between the same
    two rounds, and nobody waits for an agreement.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        total: int | None,
        seconds: float | None,
        start: Callable[[], float],
        desk: int,
        every: float | None = None,
    ) -> None:
        super().__init__(comm, total, seconds, start, every)
        self.desk = desk

    def __iter__(self) -> Iterator[int]:
        """The server's rounds; the gradients of a worker, without an end."""
        self._begin()
        if self.comm.rank != self.desk:
            yield from itertools.count()
        while (self.total is None or self.count < self.total) and not self._look():
            self.count += 1
            yield self.count - 1


class ServedGradients(Budget):
    """k = 0 .. K-1, one for each gradient of all workers, counted by the first server, the `desk`, as they come.

    A worker may compute its first one at once. Each of the desk's answers says whether it is to compute another one
    (`more`): so nothing is sent for it. A worker's reason to stop goes to the desk with what it sends.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        total: int | None,
        seconds: float | None,
        start: Callable[[], float],
        layout: Layout,
        every: float | None = None,
    ) -> None:
        super().__init__(comm, total, seconds, start, every)
        self._layout, self.desk = layout, layout.desk
        self._under_way: float = 0  # at the desk: gradients that will come

    def __iter__(self) -> Iterator[int]:
        """A worker's own gradients, until it has a reason to stop; none where fewer are left than there are workers
        before it."""
        self._begin()
        if self.comm.rank < self._left():
            yield from itertools.takewhile(lambda k: not self._look(), itertools.count())

    @contextmanager
    def attend(self) -> Iterator[None]:
        """The timed part of a server, which computes no gradients."""
        self._begin()
        self._under_way = min(self._layout.workers, self._left())
        yield

    def more(self, reason: int) -> bool:
        """Any server, of a gradient that has come with its worker's reason to stop: whether another one is wanted of
        this worker. Only the desk says no."""
        if self.comm.rank != self.desk:
            return True
        if reason:
            self.stop(Stop(reason))
        self.count += 1
        wanted = not self._look() and self._under_way <= self._left()
        self._under_way -= not wanted
        return wanted

    def settle(self) -> None:
        """Everybody has the desk's count then: who has a first gradient when the run goes on depends on it."""
        self.count = self.comm.bcast(self.count, self.desk)

    def _left(self) -> float:
        """Gradients that have not come."""
        return np.inf if self.total is None else self.total - self.count


class AgreedSteps(Budget):
    """k = 0, 1, ... the same on every rank, for synchronous programs.

    Every `period` steps, or every `hops` steps where they take longer than LONG_S, each rank posts a non-blocking
    maximum over the reasons to stop, and reads it the next time. If `period` and `hops` are at least the graph's
    diameter, agreeing adds no waiting beyond that of the program's own messages. A rank that stopped by its own clock
    would hang its neighbours.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        total: int | None,
        seconds: float | None,
        start: Callable[[], float],
        period: int,
        hops: int,
        every: float | None = None,
    ) -> None:
        super().__init__(comm, total, seconds, start, every)
        self.period = period
        self.hops = hops

    def __iter__(self) -> Iterator[int]:
        comm = self.comm.Dup()
        # Twice the reason to stop, and one more where steps are long, which only counts where there is no reason.
        mine, agreed = np.zeros(1, dtype=np.int8), np.zeros(1, dtype=np.int8)
        request = MPI.REQUEST_NULL
        self._begin()
        asked, asked_s = self.count, self._now()
        due = asked
        for k in itertools.count(self.count) if self.total is None else range(self.count, self.total):
            if k == due:
                request.Wait()
                if agreed[0] // 2:
                    break
                due += self.hops if agreed[0] else self.period
                now_s = self._now()
                mine[0] = 2 * self._look() + (now_s - asked_s > LONG_S * max(1, k - asked))
                asked, asked_s = k, now_s
                request = comm.Iallreduce(mine, agreed, MPI.MAX)
            self.count = k + 1
            yield k
        request.Wait()
        self.stop(Stop(agreed[0] // 2))
        comm.Free()
