"""Time: the local clock, sleeping, waiting for messages without burning a core, and aligned clocks.

Programs take time from here, never from `time`, and pass their communicator: whoever runs them decides
what a second is. One that is not MPI's, as in `simulated`, has methods with the names of these functions.
"""

import functools
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import numpy as np
from mpi4py import MPI

from outpace.comm import time_slice

T = TypeVar("T")
P = ParamSpec("P")

SPIN_S: Final = 2e-4  # yield the core this long before sleeping: what is about to arrive comes sooner than a nap ends
UNDER_WAY_SPIN_S: Final = 2e-2  # the same where both sides are known to be transferring, or nobody wants the core
NAP_SHARE: Final = 0.1  # a nap is this share of the time waited so far, so it delays the end by no more than that
LONGEST_NAP_S: Final = 1e-3
SHORTEST_NAP_S: Final = NAP_SHARE * SPIN_S
MOST_PATIENCE: Final = 5.0
CROWD: Final = 8  # ranks on a core from which on naps are longer: with fewer, AD-PSGD's exchanges would come too late
LOCAL_RANKS: Final = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE")  # by Hydra and by Open MPI
LONGEST_S: Final = 1e9  # of a sleep, 31 years: Python has none of three centuries
ROUND_TRIPS: Final = 200  # per offset estimate; the fastest one is kept
_told: Final[list[float]] = []  # ranks per core, as they have told one another


def by_communicator(function: Callable[Concatenate[MPI.Intracomm, P], T]) -> Callable[Concatenate[MPI.Intracomm, P], T]:
    """The function where its communicator is MPI's, else that communicator's method of this name."""

    name = function.__name__

    @functools.wraps(function)
    def chosen(comm: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if isinstance(comm, MPI.Intracomm):
            return function(comm, *args, **kwargs)
        return getattr(comm, name)(*args, **kwargs)  # type: ignore[no-any-return]

    return chosen


@by_communicator
def now(comm: MPI.Intracomm) -> float:
    """Seconds on this rank's monotonic clock; ranks of one node share it."""
    return time.monotonic()


def reader(comm: Any) -> Callable[[], float]:
    """`now` on this communicator, for who reads it several times a step: it is not looked up at each reading."""
    return time.monotonic if isinstance(comm, MPI.Intracomm) else comm.now


@by_communicator
def sleep(comm: MPI.Intracomm, seconds: float) -> None:
    time.sleep(min(seconds, LONGEST_S))


@by_communicator
def wait(
    comm: MPI.Intracomm,
    requests: Sequence[MPI.Request],
    statuses: list[MPI.Status] | None = None,
    under_way: bool = False,
) -> None:
    """Complete every request; in the long run by naps, so that ranks may share cores.

    Set `under_way` when the peer is known to be transferring. Without hardware progress, data moves only while it is
    polled; so the thread polls for longer, yielding its core, before it sleeps.
    """
    requests = list(requests)
    _poll(lambda: MPI.Request.Testall(requests, statuses), _spin_s(under_way))


@by_communicator
def wait_some(comm: MPI.Intracomm, requests: list[MPI.Request], statuses: list[MPI.Status]) -> list[int]:
    """Complete at least one of the requests, in the manner of `wait`: their indices, and as many statuses in front."""
    return _poll(lambda: MPI.Request.Testsome(requests, statuses), _spin_s()) or []


@by_communicator
def poll(comm: MPI.Intracomm, test: Callable[[], T | None]) -> T:
    """The first result of `test` that is true, awaited in the manner of `wait`."""
    return _poll(test, _spin_s())


def _poll(test: Callable[[], T | None], spin_s: float) -> T:
    start, patient = time.monotonic(), patience()
    longest_s = patient * LONGEST_NAP_S
    shortest_s = longest_s if patient > 1 and not _is_gradient_loop() else SHORTEST_NAP_S
    while not (result := test()):
        waited = time.monotonic() - start
        if waited < spin_s:
            os.sched_yield()
        else:
            time.sleep(min(max(shortest_s, patient * NAP_SHARE * waited), longest_s))
    return result


def _spin_s(under_way: bool = False) -> float:
    """How long to look for what may come at any time, or is under way. A gradient loop on a core of its own has nothing
    else to do, and takes the core from nobody; a communication thread takes it from the gradient."""
    waits = _is_gradient_loop()
    if patience() > 1:  # others need the core, and every look at a message costs some of it
        return (UNDER_WAY_SPIN_S if waits else SPIN_S) if under_way else 0.0
    return UNDER_WAY_SPIN_S if under_way or (waits and ranks_per_core() <= 1) else SPIN_S


def _is_gradient_loop() -> bool:
    """Or a communication thread, for which no gradient waits."""
    return threading.current_thread() is threading.main_thread()


def ranks_per_core() -> float:
    """On the cores that this rank may use; until the ranks have told one another (`share_cores`), as if all ranks of
    this node might use those and no others."""
    return _told[-1] if _told else _by_launcher()


@functools.cache
def _by_launcher() -> float:
    """As if it were alone, where no launcher says how many there are."""
    ranks = next((int(os.environ[name]) for name in LOCAL_RANKS if os.environ.get(name, "").isdigit()), 1)
    return ranks / len(os.sched_getaffinity(0))


def share_cores(comm: MPI.Intracomm) -> None:
    """Have every rank know how many share its cores: each may be bound to one of its own. In a crowd the threads
    that call this ask for short time slices. Collective over `comm`, of all ranks."""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    _told[:] = [crowd(node.allgather(os.sched_getaffinity(0)), node.rank)]
    node.Free()
    if patience() > 1:
        time_slice.shorten()


def crowd(cores: Sequence[Collection[int]], rank: int) -> float:
    """Ranks per core on the cores of this rank, if every rank of the node is on each of its own equally often.

    >>> crowd([{0, 1}] * 8, 0), crowd([{0}, {1}, {2}], 0), crowd([{0}, {0, 1}], 1)
    (4.0, 1.0, 1.0)
    """
    own = set(cores[rank])
    return sum(len(own.intersection(each)) / len(each) for each in cores) / len(own)


def patience() -> float:
    """How many times CROWD ranks share a core, from 1 to MOST_PATIENCE. Naps are so much longer, and those of
    communication threads never short: threads that looked for messages all the time would leave no core to who has them
    to send."""
    return min(MOST_PATIENCE, max(1.0, ranks_per_core() / CROWD))


def median(seconds: Sequence[float]) -> float:
    """As NumPy's, which loads masked arrays for it: 25 ms of every rank's start.

    >>> median([3.0, 1.0, 2.0]), median([4.0, 1.0, 2.0, 3.0])
    (2.0, 2.5)
    """
    ordered, half = sorted(seconds), len(seconds) // 2
    return (ordered[half] + ordered[~half]) / 2


@dataclass(frozen=True)
class Offset:
    """Rank 0's clock minus this rank's: `seconds`, right to `uncertainty` s, as of local time `at`."""

    at: float
    seconds: float
    uncertainty: float


@by_communicator
def offset(comm: MPI.Intracomm, read: Callable[[], float] | None = None) -> Offset:
    """This rank's offset to rank 0 by ping-pong, from the fastest of ROUND_TRIPS round trips; collective.

    Ranks on rank 0's node read the same clock, so their offset is 0 by definition; `read` replaces the clock
    (and lifts that rule).
    """
    clock = read or time.monotonic
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    beside_root = node.allgather(comm.rank)[0] == 0
    node.Free()
    measured = comm.allgather(comm.rank > 0 and (read is not None or not beside_root))
    here = Offset(clock(), 0.0, 0.0)
    ping, pong = np.empty(1), np.empty(1)
    for rank in np.flatnonzero(measured):
        if comm.rank == 0:
            for _ in range(ROUND_TRIPS):
                comm.Recv(ping, int(rank))
                pong[0] = clock()
                comm.Send(pong, int(rank))
        elif comm.rank == rank:
            best = np.inf
            for _ in range(ROUND_TRIPS):
                sent = clock()
                comm.Send(ping, 0)
                comm.Recv(pong, 0)
                received = clock()
                if received - sent < best:
                    best = received - sent
                    middle = (sent + received) / 2
                    here = Offset(middle, pong[0] - middle, best / 2)
    return here


@dataclass(frozen=True)
class Alignment:
    """Maps a rank's clock to rank 0's by the offsets at the start and, where there is one, at the end."""

    start: Offset
    end: Offset | None = None

    @property
    def drift(self) -> float:
        """Change of the offset per second of the local clock."""
        if self.end is None or self.end.at <= self.start.at:
            return 0.0
        return (self.end.seconds - self.start.seconds) / (self.end.at - self.start.at)

    @property
    def uncertainty(self) -> float:
        return max(self.start.uncertainty, self.end.uncertainty if self.end else 0.0)

    def to_root(self, local: np.ndarray) -> np.ndarray:
        return local + self.start.seconds + self.drift * (local - self.start.at)
