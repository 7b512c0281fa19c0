"""The budgets of asynchronous programs, which all workers share: where the gradients are limited each needs a ticket,
and where only the time is they are counted."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Protocol

import numpy as np
from mpi4py import MPI

from outpace.comm import clock, state, threads
from outpace.comm.budget import Budget, Stop
from outpace.comm.layout import Layout

ASK, ANSWER = 1, 2  # message tags
BATCH_S: Final = 5e-3  # of work: a worker asks for so many tickets, or tells of so many gradients, at a time; ...
DESK_S: Final = 1e-3  # ... with many workers more: so much for each, so that the desk has an ask to answer in that time
SHORT_S: Final = 1e-6  # a gradient counts as no shorter


class TimesPhases(Protocol):
    """The part of a trace that a budget needs."""

    def phase(self, kind: str) -> AbstractContextManager[Any]: ...


class Shared(Budget):
    """A budget of all workers together, kept by the layout's desk, which answers what each of them asks.

    The gradient loop makes no remote call: what it asks is sent by a thread, one ask at a time, and the desk's own loop
    asks like the others. Nor does its end wait for the others: `settle` does. An ask is WORDS numbers: the reason to
    stop, whether an answer is wanted (0 in the last one only), and what the kind of budget needs; an answer is two.

    `mpi4py.util.sync.Counter` would be shorter, but an MPI may serve it only when its rank enters MPI, so that a slow
    one slows everybody.
    """

    WORDS: int

    def __init__(
        self,
        comm: MPI.Intracomm,
        total: int | None,
        seconds: float | None,
        start: Callable[[], float],
        layout: Layout | None = None,
        every: float | None = None,
    ) -> None:
        super().__init__(comm, total, seconds, start, every)
        self._layout = layout or Layout(comm.size)
        self.desk = self._layout.desk
        self._batch_s = max(BATCH_S, DESK_S * self._layout.workers)
        self._asks: threads.Channel[Sequence[int]] = threads.channel(comm)  # of this rank's own loop
        self._answers: threads.Channel[tuple[int, int]] = threads.channel(comm)
        self._comm: MPI.Intracomm | None = None  # of the asks and answers of a loop, until it is settled ...
        self._thread: threads.Thread | None = None  # ... and who sends or answers them
        self._way_s = 0.0  # that an ask and its answer take; of several the slowest, which is forgotten slowly

    @contextmanager
    def attend(self) -> Iterator[None]:
        """The timed part of a server, which computes no gradients; the desk answers meanwhile."""
        self._open()
        yield
        self.settle()

    def settle(self) -> None:
        if self._comm is None:
            return
        if self._thread:
            self._thread.join()
        while not self._answers.empty():  # that the loop did not wait for
            self._answers.get()
        self._comm.Free()
        self._comm = None

    def _open(self) -> None:
        self._comm = comm = self.comm.Dup()
        self._begin()
        if comm.rank == self.desk:
            self._thread = threads.start(comm, self._hand_out, comm)
        elif comm.rank < self._layout.workers:
            self._thread = threads.start(comm, self._fetch, comm)

    def _fetch(self, comm: MPI.Intracomm) -> None:
        """Any worker but the desk: send what its loop asks, get what the desk answers."""
        ask, answer = np.empty(self.WORDS, dtype=np.int64), np.empty(2, dtype=np.int64)
        while True:
            ask[:] = self._asks.get()
            asked_s = clock.now(comm)
            sending = comm.Isend(ask, self.desk, ASK)
            if not ask[1]:
                break
            clock.wait(comm, [sending, comm.Irecv(answer, self.desk, ANSWER)], idle=True)
            self._way_s = max(clock.now(comm) - asked_s, 0.9 * self._way_s)
            self._answers.put((int(answer[0]), int(answer[1])))
        clock.wait(comm, [sending])

    def _hand_out(self, comm: MPI.Intracomm) -> None:
        """The desk: answer every worker until it has asked for the last time."""
        message, answer, status = np.empty(self.WORDS, dtype=np.int64), np.empty(2, dtype=np.int64), MPI.Status()

        def asked() -> tuple[int, Sequence[int]] | None:
            if comm.Iprobe(MPI.ANY_SOURCE, ASK, status):
                comm.Recv(message, status.source, ASK)
                return status.source, message.tolist()
            return None if self._asks.empty() else (comm.rank, self._asks.get())

        present = self._layout.workers
        # Nobody has a start: the first ones are answered when all have asked, the desk's own loop last.
        asks = sorted((clock.poll(comm, asked) for _ in range(present)), key=lambda ask: ask[0] == comm.rank)
        while present:
            worker, (reason, wanted, *rest) = asks.pop(0) if asks else clock.poll(comm, asked, idle=True)
            self.stop(Stop(reason))
            found = self._answer(wanted, *rest)
            if not wanted:
                present -= 1
            elif worker == comm.rank:
                self._answers.put(found)
            else:
                answer[:] = found
                clock.wait(comm, [comm.Isend(answer, worker, ANSWER)])

    @abstractmethod
    def _answer(self, wanted: int, *rest: int) -> tuple[int, int]:
        """The desk's answer; where none is `wanted`, it is not sent."""


class SharedTickets(Shared):
    """k = 0 .. K-1 handed out once each over all workers: a gradient needs a ticket.

    Tickets come in batches, of BATCH_S of work at the worker's own pace, of more where there are many workers and fewer
    towards the end, since a gradient may be shorter than a message's way. The next batch is fetched while the current
    one is used. Behind a slow link an ask may wait until whole models are through, and so may its answer: a worker then
    asks for four times as much work, of which it gets a quarter at least. The desk's own loop is served after the
    others, or it would get most of the tickets. Who ends early gives back what it has not used: it is not counted, and
    handed out first when the run goes on.
    """

    WORDS = 6  # the second is how many at most; then start and stop of two batches given back

    def __init__(
        self,
        comm: MPI.Intracomm,
        total: int,
        seconds: float | None,
        start: Callable[[], float],
        trace: TimesPhases,
        layout: Layout | None = None,
        every: float | None = None,
    ) -> None:
        super().__init__(comm, total, seconds, start, layout, every)
        self._trace = trace
        self._unused: list[range] = []  # at the desk, what was given back: of the k below `count` and their number

    def save(self) -> dict[str, state.Captured]:
        super().save()
        self.saved["tickets"] = np.array([(k.start, k.stop) for k in self._unused], dtype=np.int64)
        return self.saved

    def __iter__(self) -> Iterator[int]:
        """A worker's tickets."""
        self._open()
        most, unused = 1, (range(0), range(0))
        self._ask(most)
        while not unused[0] and (batch := self._next()):
            self._ask(most)  # the next batch travels while this one is used
            began_s = clock.now(self.comm)
            for k in batch:
                if self._look():
                    unused = range(k, batch.stop), self._next()
                    break
                yield k
            gradient_s = (clock.now(self.comm) - began_s) / len(batch)
            most = max(1, int(max(self._batch_s, 4 * self._way_s) / max(gradient_s, SHORT_S)))
        self._ask(0, *unused)

    def _ask(self, most: int, rest: range = range(0), ahead: range = range(0)) -> None:
        self._asks.put([self.reason, most, rest.start, rest.stop, ahead.start, ahead.stop])

    def _next(self) -> range:
        with self._trace.phase("wait"):
            return range(*self._answers.get())

    def _begin(self) -> None:
        if not self._started:
            self._unused = [range(*bounds) for bounds in self.saved.get("tickets", np.empty(0)).tolist()]
        super()._begin()

    def _answer(self, wanted: int, *rest: int) -> tuple[int, int]:
        if wanted:
            tickets = self._take(wanted)
            return tickets.start, tickets.stop
        back = [k for k in (range(*rest[:2]), range(*rest[2:])) if k]
        self._unused += back
        self.count -= sum(map(len, back))
        return 0, 0

    def _take(self, most: int) -> range:
        """A batch, empty where none is left or the loops shall end."""
        if self._look():
            return range(0)
        left = (self.total or 0) - self.count
        most = int(min(most, max(1, most / 4, left / (4 * self._layout.workers)), left))
        tickets = self._unused.pop() if self._unused else range(self.count, self.count + most)
        if tickets[most:]:
            self._unused.append(tickets[most:])
        self.count += len(tickets[:most])
        return tickets[:most]


class SharedCount(Shared):
    """Where only the time is limited: k is how many gradients all workers have begun, as far as this one has heard.

    No loop waits, however slow messages are, and two workers may see the same k. Every worker looks at its own clock,
    tells the desk of its gradients every BATCH_S or more, and hears of all of them, and of a reason to stop.
    """

    WORDS = 3  # the third is how many gradients since the last ask

    def __init__(
        self,
        comm: MPI.Intracomm,
        seconds: float | None,
        start: Callable[[], float],
        layout: Layout | None = None,
        every: float | None = None,
    ) -> None:
        super().__init__(comm, None, seconds, start, layout, every)

    def __iter__(self) -> Iterator[int]:
        """The k at each of a worker's gradients."""
        self._open()
        others, own, told = self.count, 0, 0  # gradients of the others, of this worker, and those the desk knows of
        waiting, told_s = False, -np.inf
        while True:
            if waiting and not self._answers.empty():
                count, reason = self._answers.get()
                others, waiting = count - told, False
                self.stop(Stop(reason))
            if self._look():
                break
            now_s = clock.now(self.comm)
            if not waiting and now_s - told_s >= self._batch_s:
                self._asks.put([self.reason, 1, own - told])
                waiting, told_s, told = True, now_s, own
            yield others + own
            own += 1
        self._asks.put([self.reason, 0, own - told])
        if self.comm.rank != self.desk:
            self.count = others + own

    def _answer(self, wanted: int, *rest: int) -> tuple[int, int]:
        self.count += rest[0]
        return self.count, self._look()
