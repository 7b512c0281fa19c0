"""The budget of a run: `for k in budget:` is the loop of every program.

A synchronous program counts its own steps and every rank leaves the loop at the same k. An asynchronous one
shares the budget: k counts the gradients of all workers, each k is handed out once, and exactly K are applied.
Both end early when the time is up, on a signal and when a gradient is not finite.

A checkpoint is an early end as well: no message is under way then, so the run is what its programs `keep`. Whoever
calls `run` again with the same budget, or with one whose `saved` and `count` were read from a file, goes on at that k.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import IntEnum
from typing import Any, Final, Protocol

import numpy as np
from mpi4py import MPI

from outpace.comm import clock, state, threads
from outpace.comm.layout import Layout

ASK, TICKETS = 1, 2  # message tags
BATCH_S: Final = 5e-3  # of work: a worker asks for as many tickets at a time
SHORT_S: Final = 1e-6  # a gradient counts as no shorter
LONG_S: Final = 0.1  # of a step: the agreements on an end then cost next to nothing


class Stop(IntEnum):
    """Why a loop ends before its budget is used up; the largest one counts."""

    NO = 0
    CHECKPOINT = 1
    DONE = 2  # the program has found what it sought
    TIME = 3
    SIGNAL = 4
    DIVERGED = 5


class TimesPhases(Protocol):
    """The part of a trace that a budget needs."""

    def phase(self, kind: str) -> AbstractContextManager[Any]: ...


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
            self._checkpoint_due = clock.now(self.comm) + self._every

    def _look(self) -> Stop:
        now = clock.now(self.comm)
        if now >= self._deadline:
            self.stop(Stop.TIME)
        elif now >= self._checkpoint_due:
            self.stop(Stop.CHECKPOINT)
        return self.reason


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
        asked, asked_s = self.count, clock.now(comm)
        due = asked
        for k in itertools.count(self.count) if self.total is None else range(self.count, self.total):
            if k == due:
                request.Wait()
                if agreed[0] // 2:
                    break
                due += self.hops if agreed[0] else self.period
                now_s = clock.now(comm)
                mine[0] = 2 * self._look() + (now_s - asked_s > LONG_S * max(1, k - asked))
                asked, asked_s = k, now_s
                request = comm.Iallreduce(mine, agreed, MPI.MAX)
            self.count = k + 1
            yield k
        request.Wait()
        self.stop(Stop(agreed[0] // 2))
        comm.Free()


class SharedTickets(Budget):
    """k = 0 .. K-1 handed out once each over all workers, by the layout's desk, for asynchronous programs.

    Tickets come in batches, of BATCH_S of work at the worker's own pace and fewer towards the end, since a gradient may
    be shorter than a message's way. The gradient loop makes no remote call: its next batch is fetched while the current
    one is used. The desk's own loop asks like the others, after them, or it would get most of the tickets. Who ends
    early gives back what it has not used: it is not counted, and handed out first when the run goes on.

    `mpi4py.util.sync.Counter` would be shorter, but an MPI may serve it only when its rank enters MPI, so that a slow
    one slows everybody.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        total: int | None,
        seconds: float | None,
        start: Callable[[], float],
        trace: TimesPhases,
        layout: Layout | None = None,
        every: float | None = None,
    ) -> None:
        super().__init__(comm, total, seconds, start, every)
        self._trace = trace
        self._layout = layout or Layout(comm.size)
        self.desk = self._layout.desk
        self._unused: list[range] = []  # at the desk, what was given back: of the k below `count` and their number
        # Of this rank's own loop. An ask is [reason to stop, most, and start and stop of two batches given back]; one
        # for 0 tickets is the last and has no answer.
        self._asks: threads.Channel[list[int]] = threads.channel(comm)
        self._batches: threads.Channel[range] = threads.channel(comm)

    def save(self) -> dict[str, state.Captured]:
        super().save()
        self.saved["tickets"] = np.array([(k.start, k.stop) for k in self._unused], dtype=np.int64)
        return self.saved

    def __iter__(self) -> Iterator[int]:
        """A worker's tickets."""
        with self.attend() as comm:
            fetching = None if comm.rank == self.desk else threads.start(comm, self._fetch, comm)
            most, unused = 1, (range(0), range(0))
            self._ask(most)
            while not unused[0] and (batch := self._next()):
                self._ask(most)  # the next batch travels while this one is used
                began_s = clock.now(comm)
                for k in batch:
                    if self._look():
                        unused = range(k, batch.stop), self._next()
                        break
                    yield k
                gradient_s = (clock.now(comm) - began_s) / len(batch)
                most = max(1, int(BATCH_S / max(gradient_s, SHORT_S)))
            self._ask(0, *unused)
            if fetching:
                fetching.join()

    @contextmanager
    def attend(self) -> Iterator[MPI.Intracomm]:
        """The timed part of a server, which takes no tickets; the desk hands them out meanwhile. Gives a communicator
        of the budget's own."""
        comm = self.comm.Dup()
        if not self._started:
            self._unused = [range(*bounds) for bounds in self.saved.get("tickets", np.empty(0)).tolist()]
        self._begin()
        handing_out = threads.start(comm, self._hand_out, comm) if comm.rank == self.desk else None
        yield comm
        if handing_out:
            handing_out.join()
        comm.Free()

    def _ask(self, most: int, rest: range = range(0), ahead: range = range(0)) -> None:
        self._asks.put([self.reason, most, rest.start, rest.stop, ahead.start, ahead.stop])

    def _next(self) -> range:
        with self._trace.phase("wait"):
            return self._batches.get()

    def _fetch(self, comm: MPI.Intracomm) -> None:
        """Any worker but the desk: send what its loop asks, get what the desk answers."""
        ask, batch = np.ones(6, dtype=np.int64), np.empty(2, dtype=np.int64)
        while True:
            ask[:] = self._asks.get()
            sending = comm.Isend(ask, self.desk, ASK)
            if not ask[1]:
                break
            clock.wait(comm, [sending, comm.Irecv(batch, self.desk, TICKETS)])
            self._batches.put(range(*batch.tolist()))
        clock.wait(comm, [sending])

    def _hand_out(self, comm: MPI.Intracomm) -> None:
        """The desk: answer every worker until it has asked for the last time."""
        message, batch, status = np.empty(6, dtype=np.int64), np.empty(2, dtype=np.int64), MPI.Status()

        def asked() -> tuple[int, list[int]] | None:
            if comm.Iprobe(MPI.ANY_SOURCE, ASK, status):
                comm.Recv(message, status.source, ASK)
                return status.source, message.tolist()
            return None if self._asks.empty() else (comm.rank, self._asks.get())

        present = self._layout.workers
        # Nobody has a start: the first ones are answered when all have asked, the desk's own loop last.
        asks = sorted((clock.poll(comm, asked) for _ in range(present)), key=lambda ask: ask[0] == comm.rank)
        while present:
            worker, (reason, most, *bounds) = asks.pop(0) if asks else clock.poll(comm, asked)
            self.stop(Stop(reason))
            if not most:
                present -= 1
                back = [k for k in (range(*bounds[:2]), range(*bounds[2:])) if k]
                self._unused += back
                self.count -= sum(map(len, back))
                continue
            tickets = self._take(most)
            if worker == comm.rank:
                self._batches.put(tickets)
            else:
                batch[:] = tickets.start, tickets.stop
                clock.wait(comm, [comm.Isend(batch, worker, TICKETS)])

    def _take(self, most: int) -> range:
        """A batch, empty where none is left or the loops shall end."""
        if self._look():
            return range(0)
        left = math.inf if self.total is None else self.total - self.count
        most = int(min(most, max(1, most / 4, left / (4 * self._layout.workers)), left))
        tickets = self._unused.pop() if self._unused else range(self.count, self.count + most)
        if tickets[most:]:
            self._unused.append(tickets[most:])
        self.count += len(tickets[:most])
        return tickets[:most]
