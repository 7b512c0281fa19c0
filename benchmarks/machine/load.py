"""How far other processes keep the cores of the ranks busy, looked at in a moment in which all ranks sleep."""

import os
import platform
import time
from collections import Counter
from pathlib import Path
from typing import Final

from mpi4py import MPI

from outpace.comm import clock

LOOK_S: Final = 0.1  # ten ticks of the kernel's clock
SLACK: Final = 0.5  # cores that may be busy beside a rank on each


def look(comm: MPI.Intracomm) -> tuple[float, bool]:
    """How many of some rank's cores others keep busy, at most, and whether they then leave too few for the ranks on
    them; collective, and takes LOOK_S."""
    cores = frozenset(os.sched_getaffinity(0))
    clock.wait(comm, [comm.Ibarrier()])
    start, before = time.monotonic(), busy_s(Path("/proc/stat"), cores)
    clock.sleep(comm, LOOK_S)
    seconds, after = time.monotonic() - start, busy_s(Path("/proc/stat"), cores)
    clock.wait(comm, [comm.Ibarrier()])
    seats = comm.allgather((platform.node(), cores, (after - before) / seconds))
    return max(busy for _, _, busy in seats), crowded(seats)


def crowded(seats: list[tuple[str, frozenset[int], float]]) -> bool:
    """Whether the ranks on some cores, and what others do there, need more of them, by each rank's (node, affinity
    mask, cores that others keep busy).

    >>> crowded([("a", frozenset({0, 1}), 0.2)] * 2), crowded([("a", frozenset({0, 1}), 0.9)] * 2)
    (False, True)
    """
    ranks = Counter((node, cores) for node, cores, _ in seats)
    return any(busy > SLACK and ranks[node, cores] + busy > len(cores) + SLACK for node, cores, busy in seats)


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
