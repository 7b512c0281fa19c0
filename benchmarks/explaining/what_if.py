"""What the run would have taken if something had been otherwise, computed from its trace, each with its assumption."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from outpace.benchmarks.explaining.culprits import Culprit, named
from outpace.benchmarks.explaining.paces import Paces
from outpace.benchmarks.explaining.rounds import Rounds
from outpace.benchmarks.explaining.wires import Wires
from outpace.benchmarks.trace.run import Run


@dataclass(frozen=True)
class WhatIf:
    """The same gradients in `wall_s` seconds, `speed_up` times as fast."""

    what: str
    wall_s: float
    speed_up: float
    assumption: str
    rank: int | None = None


def of_rounds(run: Run, rounds: Rounds, wires: Wires, culprits: Sequence[Culprit]) -> list[WhatIf]:
    """Rounds of a synchronous program, taken again with other times; by the same rule they gave the time as it was."""
    wall_s, busy_s, transfer_s = float(run.attrs["wall_s"]), rounds.busy_s, rounds.transfer_s
    before_s = rounds.again(busy_s, transfer_s)
    found = []

    def add(what: str, after_s: float, assumption: str, rank: int | None = None) -> None:
        found.append(WhatIf(what, wall_s * after_s / before_s, before_s / after_s, assumption, rank))

    for r in slowed(culprits):
        faster = busy_s.copy()
        faster[r] -= rounds.injected_s[r]
        if not rounds.injected_s[r].any():
            faster[r] = np.minimum(busy_s[r], np.median(np.delete(busy_s, r, axis=0), axis=0))
        assumption = "each round's transfer takes as long as it did after the last arrival"
        add("without this rank's delay", rounds.again(faster, transfer_s), assumption, r)
    level = np.broadcast_to(np.median(busy_s, axis=0), busy_s.shape)
    add("all ranks at the median of each round", rounds.again(level, transfer_s), "transfers as they were")
    if np.isfinite(wires.busy_s).any():
        wire_s = float(np.nanmax(wires.busy_s)) / busy_s.shape[1]  # of a round, on the link that is busiest
        faster = np.maximum(0.0, transfer_s - wire_s / 2)
        add("twice the bandwidth", rounds.again(busy_s, faster), "only what bytes take at the measured rate is halved")
    paces_s = busy_s.mean(axis=1)
    alone = float(busy_s.size / (1 / paces_s).sum())
    add("waiting hidden", alone, "no gradient waits for anybody, and each worker's gradients count alike")
    return found


def of_paces(run: Run, paces: Paces, wires: Wires, culprits: Sequence[Culprit]) -> list[WhatIf]:
    """Paces of an asynchronous program, added up again: as many gradients at another rate. A run with a slow worker
    ends with what this one alone is still about, so that its time is not in proportion to the rate."""
    wall_s, gradients = float(run.attrs["wall_s"]), sum(len(times) for times in paces.single_s)
    found = []

    def add(what: str, cycle_s: np.ndarray, assumption: str, rank: int | None = None, server: bool = True) -> None:
        after = paces.rate(cycle_s) if server else float((1 / cycle_s).sum())
        found.append(WhatIf(what, gradients / after, wall_s * after / gradients, assumption, rank))

    for r in slowed(culprits):
        faster = paces.cycle_s.copy()
        faster[r] -= paces.injected_s[r]
        if not paces.injected_s[r]:
            faster[r] = np.median(np.delete(paces.cycle_s, r))
        add("without this rank's delay", faster, "the others keep their pace", r)
    level = np.full_like(paces.cycle_s, np.median(paces.cycle_s))
    add("all ranks at the median", level, "waiting as it was")
    if np.isfinite(wires.busy_s).any():
        of_each = np.array([len(times) for times in paces.single_s])
        wire_s = 2 * wires.busy_s[: len(of_each)] / of_each  # there and back
        if len(wires.rate) > len(of_each):  # a server's link takes what all workers send
            wire_s = np.maximum(wire_s, np.nanmax(wires.busy_s[len(of_each) :]) / of_each.mean())
        faster = paces.cycle_s - np.minimum(paces.wait_s, np.nan_to_num(wire_s)) / 2
        add(
            "twice the bandwidth",
            faster,
            "of the gradient loops' waiting, what bytes take at the measured rate is halved",
        )
    add("waiting hidden", paces.cycle_s - paces.wait_s, "messages take no time of any gradient loop", server=False)
    return found


def slowed(culprits: Sequence[Culprit]) -> list[int]:
    """The ranks that are named for their gradients."""
    return named(culprit for culprit in culprits if culprit.cause == "compute")
