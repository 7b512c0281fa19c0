"""How far other processes keep the cores of the ranks busy."""

import os
import platform
import resource
import time
from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple

from mpi4py import MPI

from outpace.comm import clock

LEAST_S: Final = 0.05  # of a first look, while ranks start
LOOK_S: Final = 0.1  # of a second one, in which all ranks sleep: ten ticks of the kernel's clock
SLACK: Final = 0.5  # cores that may be busy beside a rank on each
DOUBT: Final = SLACK / 2  # cores from which on a second look is worth its time


class Seat(NamedTuple):
    """Where a rank is, and how many of its cores other processes kept busy."""

    node: str
    cores: frozenset[int]
    busy: float


class Look:
    """How busy others have kept the cores of the ranks since this was made.

    Ranks start meanwhile, and what they take themselves is subtracted. They also crowd out the others then, and the
    kernel counts in ticks: where others took more than DOUBT, all ranks sleep, and it is looked at once more.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        """Made by all ranks at about the same time."""
        self._comm, self._cores = comm, frozenset(os.sched_getaffinity(0))
        self._begin()

    def end(self) -> tuple[float, bool]:
        """How many of some rank's cores others keep busy, at most, and whether they then leave too few for the ranks on
        them; collective."""
        clock.wait(self._comm, [self._comm.Ibarrier()])
        seats = self._over(LEAST_S)
        if max(seat.busy for seat in seats) > DOUBT:
            self._begin()
            seats = self._over(LOOK_S)
        return max(seat.busy for seat in seats), crowded(seats)

    def _begin(self) -> None:
        self._start = self._reading()

    def _reading(self) -> tuple[float, float, float]:
        """Seconds: of the clock, for which the cores were busy, and that this process has taken."""
        return time.monotonic(), busy_s(Path("/proc/stat"), self._cores), own_s()

    def _over(self, least_s: float) -> list[Seat]:
        """The ranks' seats, after so long a look at least; collective."""
        clock.sleep(self._comm, max(0.0, self._start[0] + least_s - time.monotonic()))
        seconds, busy, own = (now - then for now, then in zip(self._reading(), self._start, strict=True))
        clock.wait(self._comm, [self._comm.Ibarrier()])
        found = self._comm.allgather((Seat(platform.node(), self._cores, busy / seconds), own / seconds))
        return others([seat for seat, _ in found], [own for _, own in found])


def others(seats: list[Seat], own: list[float]) -> list[Seat]:
    """The seats, busy with all processes, without what the ranks took there themselves.

    >>> cores = frozenset({0, 1})
    >>> others([Seat("a", cores, 1.5), Seat("a", cores, 1.5), Seat("b", cores, 0.5)], [0.5, 0.25, 0.5])[1:]
    [Seat(node='a', cores=frozenset({0, 1}), busy=0.75), Seat(node='b', cores=frozenset({0, 1}), busy=0.0)]
    """

    def of_ranks(at: Seat) -> float:
        there = [took for seat, took in zip(seats, own, strict=True) if seat.node == at.node and seat.cores <= at.cores]
        return sum(there)

    return [seat._replace(busy=max(0.0, seat.busy - of_ranks(seat))) for seat in seats]


def crowded(seats: list[Seat]) -> bool:
    """Whether the ranks on some cores, and what others do there, need more of them.

    >>> crowded([Seat("a", frozenset({0, 1}), 0.2)] * 2), crowded([Seat("a", frozenset({0, 1}), 0.9)] * 2)
    (False, True)
    """
    ranks = Counter((node, cores) for node, cores, _ in seats)
    return any(busy > SLACK and ranks[node, cores] + busy > len(cores) + SLACK for node, cores, busy in seats)


def own_s() -> float:
    """Seconds of a core that this process has taken, with what it has started and seen end."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def busy_s(stat: Path, cores: frozenset[int]) -> float:
    """Seconds for which these cores were not idle since the machine was started, by proc_stat(5); 0 where that is not
    told."""
    ticks = 0
    try:
        lines = [line.split() for line in stat.read_text().splitlines() if line.startswith("cpu")]
    except OSError:
        return 0.0
    for name, *times in lines:
        if name.removeprefix("cpu").isdigit() and int(name[3:]) in cores:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, times[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")
