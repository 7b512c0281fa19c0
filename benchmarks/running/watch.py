"""The watcher of a rank: one thread that flushes its part file, takes its signals, tells when nothing happens, and on
rank 0 shows progress."""

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from typing import Final

from mpi4py import MPI

from outpace.benchmarks.machine import launcher
from outpace.benchmarks.running.standstill import Standstill
from outpace.comm import threads
from outpace.comm.budget import Budget, Stop

PERIOD_S: Final = 1.0  # between two flushes
GRACE_S: Final = 5.0  # from SIGTERM, Ctrl-C or SIGHUP to a normal end; then the job is aborted
ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PIPE: Final = os.pipe()  # signals are the process's: their numbers, from the C handler to the watcher


def listen() -> None:
    """Install the handler of SIGUSR1, early, since MPI would let the signal end the process. The watcher acts on it
    once a run exists. Until then the others end the process, without a traceback at Ctrl-C."""
    os.set_blocking(_PIPE[1], False)
    signal.set_wakeup_fd(_PIPE[1], warn_on_full_buffer=False)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    for number in _heard():
        signal.signal(number, signal.SIG_DFL)


def deaf() -> None:
    """From here on no signal changes the end of this process but SIGKILL: what it was to do is done."""
    for number in (*ENDING, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _heard() -> list[signal.Signals]:
    """ENDING, without SIGHUP under nohup."""
    nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in ENDING if number != signal.SIGHUP or not nohup]


class Watch:
    """Starts with the object, which must be made in the main thread, and lives as long as the process.

    A signal asks the budget for an early end, which every rank then reaches in the normal way. Those of ENDING (not
    SIGUSR1, whose sender waits) abort the job if it has not ended GRACE_S later, be it blocked in MPI. Their
    Python handlers do nothing: Python runs handlers in the main thread only, and not inside an MPI call. Instead the C
    handler writes the signal's number to a pipe on which this thread sleeps, whichever thread the signal hits; `listen`
    has told it to.

    `flush` says whether there was something to write. As long as it is called, a rank without it is at a standstill.
    """

    def __init__(
        self, comm: MPI.Intracomm, budget: Budget, flush: Callable[[], bool], show: Callable[[], None]
    ) -> None:
        self._comm, self._budget, self._flush, self._show = comm, budget, flush, show
        self.signal = 0  # the last one taken
        self._lock = threading.Lock()
        self._flushing = True
        self._moved = False  # since the last look at a standstill
        self._standstill = Standstill(comm.rank)
        for number in _heard():
            signal.signal(number, lambda *_: None)
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def flush(self) -> None:
        with self._lock:
            self._moved |= self._flush()

    def last_flush(self) -> None:
        """Flush once more and never again; signals are still taken."""
        with self._lock:
            self._flushing = False
            self._flush()

    def _run(self) -> None:
        deadline = float("inf")
        while True:
            readable, _, _ = select.select([_PIPE[0]], [], [], min(PERIOD_S, max(0.0, deadline - time.monotonic())))
            if readable:
                self.signal = os.read(_PIPE[0], 1)[0]
                self._budget.stop(Stop.SIGNAL)
                if self.signal in ENDING:
                    deadline = min(deadline, time.monotonic() + GRACE_S)
            try:
                with self._lock:
                    if self._flushing:
                        self._standstill.look(self._flush() or self._moved)
                        self._moved = False
                        self._show()
            except OSError as error:
                self._abort(f"cannot write its part of the trace: {error.strerror}", 1)
            if time.monotonic() >= deadline:
                self._abort(
                    f"{signal.Signals(self.signal).name}, and the run did not end within {GRACE_S:g} s",
                    128 + self.signal,
                )

    def _abort(self, cause: str, code: int) -> None:
        launcher.announce(code)
        kept = "the job ends, what was written is kept for `outpace show --recover`"
        threads.abort(self._comm, f"{cause}; {kept}", code)
