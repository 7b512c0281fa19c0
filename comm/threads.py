"""Threads for the communication side of a program, and what it shares with the gradient loop.

Everything takes the communicator and keeps no state here, for the reason given in `clock`.
"""

import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Final, NoReturn

from mpi4py import MPI

from outpace.comm.arrays import current_device
from outpace.comm.clock import by_communicator
from outpace.comm.errors import UserError

# An error of MPI is mostly the echo of another rank's death, and the launcher, which knows more, may end the job first.
ECHO_S: Final = 1.0
# Hydra drops what it has not read yet of a job that aborts: one message in thirty, when the abort followed at once.
FORWARD_S: Final = 0.3
# A thread that computes gives Python's lock to another one after so long: 5 ms by default, many messages' way.
SWITCH_S: Final = 2e-4


def check() -> None:
    """Raise UserError where this MPI cannot be called from two threads."""
    if MPI.Query_thread() != MPI.THREAD_MULTIPLE:
        raise UserError("asynchronous programs need MPI_THREAD_MULTIPLE, without which this MPI was started")


@by_communicator
def start(comm: MPI.Intracomm, target: Callable[..., None], *args: Any) -> threading.Thread:
    """Run `target(*args)` in a thread, on the device of this one. An exception in it ends the job: nobody would miss
    the thread otherwise."""
    device = current_device()
    sys.setswitchinterval(SWITCH_S)

    def guarded() -> None:
        try:
            if device is not None:
                device.use()  # which device is in use is a matter of each thread
            target(*args)
        except BaseException:
            abort(comm, f"exception in the communication thread\n{traceback.format_exc()}", 1)

    thread = threading.Thread(target=guarded, name=target.__name__, daemon=True)
    thread.start()
    return thread


@by_communicator
def abort(comm: MPI.Intracomm, cause: str, code: int) -> NoReturn:
    """End the job from any thread: say which rank and why, then abort."""
    if isinstance(sys.exception(), MPI.Exception):
        time.sleep(ECHO_S)
    print(f"rank {comm.rank}: {cause}", file=sys.stderr, flush=True)
    time.sleep(FORWARD_S)
    comm.Abort(code)
    raise SystemExit(code)  # not reached: MPI's abort does not return


Thread = threading.Thread
Channel = queue.SimpleQueue  # first in, first out; `get` sleeps until there is something


@by_communicator
def lock(comm: MPI.Intracomm) -> threading.Lock:
    return threading.Lock()


@by_communicator
def channel(comm: MPI.Intracomm) -> Channel[Any]:
    return queue.SimpleQueue()


@by_communicator
def event(comm: MPI.Intracomm) -> threading.Event:
    return threading.Event()
