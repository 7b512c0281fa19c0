"""How much memory there is, and the refusal of what needs more of it, before anything is allocated. No MPI."""

import math
import resource
from pathlib import Path
from typing import Final

from outpace.comm import control_groups
from outpace.comm.errors import UserError

UNITS: Final = ("bytes", "kB", "MB", "GB", "TB", "PB")
# Of a control group in versions 2 and 1: its limit, what it uses, and in `memory.stat` the cache that it can give back.
FILES: Final = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def of_node(proc: Path = Path("/proc")) -> float:
    """Bytes that the processes of this node may still take: what the system has, less where a control group of this
    process, or one above it, allows less; infinite where neither is known."""
    return min([_of_system(proc), *map(_of_group, control_groups.folders("memory", proc / "self"))])


def of_process() -> float:
    """Bytes that this process may still take by its own limits (`ulimit -v`, `ulimit -d`)."""
    rest = math.inf
    pages = [int(word) for word in Path("/proc/self/statm").read_text().split()]
    for limit, used in ((resource.RLIMIT_AS, pages[0]), (resource.RLIMIT_DATA, pages[5])):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY:
            rest = min(rest, soft - used * resource.getpagesize())
    return rest


def require(nbytes: float, what: str) -> None:
    """Refuse what this process would need so much more memory for. Raises UserError."""
    refuse(nbytes, min(of_node(), of_process()), what, "it needs")


def refuse(nbytes: float, available: float, what: str, who: str) -> None:
    """Raise UserError, saying both amounts, where `who` needs more bytes than are available."""
    if nbytes > available:
        raise UserError(f"{what}: {who} about {amount(nbytes)} of memory; {amount(max(0, available))} are available")


def amount(nbytes: float) -> str:
    """A number of bytes for people, to two digits.

    >>> amount(64e9), amount(1.25e21), amount(37)
    ('64 GB', '1.2e+06 PB', '37 bytes')
    """
    power = min(int(math.log(max(nbytes, 1), 1000)), len(UNITS) - 1)
    number = nbytes / 1000**power
    return f"{number:.0f} {UNITS[power]}" if 10 <= number < 1000 else f"{number:.2g} {UNITS[power]}"


def _of_system(proc: Path) -> float:
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), math.inf)


def _of_group(group: Path) -> float:
    """What this control group itself has left, infinite where it has no limit."""
    for limit, used, cache in FILES:
        try:
            most, now = int((group / limit).read_text()), int((group / used).read_text())
            given_back = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # the other version, "max", or the group above all others
            continue
        return most - now + int(given_back.get(cache, 0))
    return math.inf
