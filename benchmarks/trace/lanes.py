"""The events of a run for viewers of timelines, read in blocks: each on its rank and thread, with whom it exchanges.

A trace does not say which thread an event is of. What a rank does while it computes is of its communication thread, and
so are all its events of that kind; the rest is of its gradient loop, or of the server.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from numpy.typing import NDArray

from outpace.benchmarks.trace import schema, validation
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

BLOCK: Final = 2**16  # rows in memory
ROUNDING_S: Final = 1e-6  # by which events of one thread may seem to overlap
NAMES: Final = {number: name for name, number in schema.KIND.items()}
COMMUNICATION: Final = frozenset(schema.KIND[name] for name in schema.COMMUNICATION)
GRADIENTS, BESIDE = "gradients", "communication"  # threads of a worker
SERVER: Final = "server"  # the thread of one


@dataclass(frozen=True)
class Slice:
    """One event. `flows` are numbers that it has in common with the event on the other side of an exchange, and whether
    that one began before."""

    rank: int
    thread: str
    kind: str
    start_s: float
    end_s: float
    step: int
    peer: int
    nbytes: int
    flows: Sequence[tuple[int, bool]]


def blocks(run: Run, group: str, names: Sequence[str]) -> Iterator[list[NDArray[Any]]]:
    """Columns of a group, so many rows at a time. Raises UserError as `Run.column`, but for checksums of columns."""
    for name in names:
        if not run.has(group, name):
            raise UserError(f"{run.path}: no column {name} in /{group}")
    with run.open() as file:
        for start in range(0, len(file[group][names[0]]), BLOCK):
            columns = [file[group][name][start : start + BLOCK] for name in names]
            for name, column in zip(names, columns, strict=True):
                validation.values(group, name, column, run.path, run.attrs)
            yield columns


def beside(run: Run) -> set[tuple[int, int]]:
    """(rank, kind) of the events of communication threads: those of a kind that overlaps computing."""
    computing_until: dict[int, float] = {}
    communicating_until: dict[int, tuple[float, int]] = {}
    found = set()
    for columns in blocks(run, "events", ("rank", "kind", "t_start_s", "t_end_s")):
        for rank, kind, start, end in zip(*(column.tolist() for column in columns), strict=True):
            if kind in COMMUNICATION:
                if start < computing_until.get(rank, 0.0) - ROUNDING_S:
                    found.add((rank, kind))
                communicating_until[rank] = end, kind
            else:
                until, of_kind = communicating_until.get(rank, (0.0, -1))
                if start < until - ROUNDING_S:
                    found.add((rank, of_kind))
                computing_until[rank] = end
    return found


def threads(run: Run) -> list[tuple[int, str]]:
    """(rank, thread) of all events, in order."""
    n, ranks = run.attrs["n_workers"], len(run.attrs["hostnames"])
    with_thread = {rank for rank, _ in beside(run)}
    own = [(rank, GRADIENTS if rank < n else SERVER) for rank in range(ranks)]
    return sorted(
        [*own, *((rank, BESIDE) for rank in with_thread if rank < n)], key=lambda each: (each[0], each[1] == BESIDE)
    )


def slices(run: Run) -> Iterator[Slice]:
    """All events in the order of their starts.

    The k-th event of a rank that names a peer is the other side of the k-th one of that peer that names the rank. A
    worker's message goes to all servers and names none.
    """
    n, servers = run.attrs["n_workers"], range(run.attrs["n_workers"], len(run.attrs["hostnames"]))
    of_thread = beside(run)
    seen: Counter[tuple[int, int]] = Counter()
    names = ("rank", "kind", "t_start_s", "t_end_s", "step", "peer", "nbytes")
    for columns in blocks(run, "events", names):
        for rank, kind, start, end, step, peer, nbytes in zip(*(column.tolist() for column in columns), strict=True):
            thread = SERVER if rank >= n else BESIDE if (rank, kind) in of_thread else GRADIENTS
            others = [] if kind not in COMMUNICATION else [peer] if peer >= 0 else servers if rank < n else []
            flows = []
            for other in others:
                k = seen[rank, other]
                seen[rank, other] += 1
                low, high = sorted((rank, other))
                flows.append((1 + (k * (servers.stop) + low) * servers.stop + high, k < seen[other, rank]))
            yield Slice(rank, thread, NAMES.get(kind, f"kind {kind}"), start, end, step, peer, nbytes, flows)
