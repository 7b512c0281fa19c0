"""How long rounds take that wait for the first m of n gradients: computed, from the delays that programs meet."""

import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from outpace.benchmarks.running import stragglers
from outpace.benchmarks.running.stragglers import Delays

LAWS: Final = ("fixed:rank=0,factor=10", "lognormal:sigma=1", "pareto:alpha=1.5")


class Rounds(NamedTuple):
    round_s: float  # mean over the rounds
    dropped: float  # share of the gradients that came


def busy_s(law: str, n: int, compute_s: float, gradients: int, seed: int = 0) -> NDArray[np.float64]:
    """How long each of n workers takes for each of so many gradients, delays included, shape (n, gradients)."""
    return np.array(
        [[compute_s + worker.seconds(k, compute_s) for k in range(gradients)] for worker in _delays(law, n, seed)]
    )


def order_statistic_s(law: str, n: int, m: int, compute_s: float, rounds: int, seed: int = 0) -> float:
    """Mean time of a round where all n workers begin it together, as if late ones could be interrupted: the m-th
    smallest of n compute times, delays of a SPEC of stragglers included."""
    return float(np.partition(busy_s(law, n, compute_s, rounds, seed), m - 1, axis=0)[m - 1].mean())


def rounds_of_m(
    law: str,
    n: int,
    m: int,
    compute_s: float,
    rounds: int,
    late: Literal["discard", "apply"] = "discard",
    seed: int = 0,
) -> Rounds:
    """The rounds of `m_sync_sgd` where messages and arithmetic take no time. A late worker ends its gradient and takes
    part in the round that is then under way."""
    workers, steps = _delays(law, n, seed), [0] * n
    under_way: list[tuple[float, int, int]] = []  # when a gradient is done, whose it is, and of which round

    def begin(worker: int, now_s: float, k: int) -> None:
        done_s = now_s + compute_s + workers[worker].seconds(steps[worker], compute_s)
        steps[worker] += 1
        heapq.heappush(under_way, (done_s, worker, k))

    for worker in range(n):
        begin(worker, 0.0, 0)
    dropped, now_s = 0, 0.0
    for k in range(rounds):
        members: list[int] = []
        while len(members) < m:
            now_s, worker, begun_in = heapq.heappop(under_way)
            if begun_in < k and late == "discard":
                dropped += 1
                begin(worker, now_s, k)
            else:
                members.append(worker)
        for worker in members:
            begin(worker, now_s, k + 1)
    return Rounds(now_s / rounds, dropped / (dropped + rounds * m))


def never_waiting(law: str, n: int, compute_s: float, gradients: int, seed: int = 0) -> float:
    """Gradients per second of n workers that wait for nobody, by the mean of so many compute times of each."""
    return float((1 / busy_s(law, n, compute_s, gradients, seed).mean(axis=1)).sum())


def first_of_n(
    folder: Path, n: int = 8, compute_s: float = 0.01, rounds: int = 20_000, laws: Sequence[str] = LAWS
) -> dict[tuple[str, int], tuple[float, Rounds, Rounds]]:
    """(law, m) -> time of a round with interruption, and those of m_sync_sgd with late gradients discarded and applied.

    Nothing is launched, and nothing written. m = n is the pace of synchronous SGD; the last line of each law is that of
    asynchronous SGD, whose workers never wait.
    """
    found = {}
    for law in laws:
        shown = Table("m", title=f"{law}, n = {n}, {1e3 * compute_s:g} ms of compute, {rounds} rounds")
        for heading in (
            "interrupted, ms",
            "m-sync, ms",
            "gradients/s",
            "dropped, %",
            "late applied, ms",
            "gradients/s",
        ):
            shown.add_column(heading, justify="right")
        for m in range(1, n + 1):
            ideal = order_statistic_s(law, n, m, compute_s, rounds)
            discard, apply = (rounds_of_m(law, n, m, compute_s, rounds, late) for late in ("discard", "apply"))
            found[law, m] = ideal, discard, apply
            texts = [f"{1e3 * ideal:.2f}", f"{1e3 * discard.round_s:.2f}", f"{m / discard.round_s:.0f}"]
            texts += [f"{100 * discard.dropped:.1f}", f"{1e3 * apply.round_s:.2f}", f"{m / apply.round_s:.0f}"]
            shown.add_row(str(m), *texts)
        shown.add_row("none", "", "", f"{never_waiting(law, n, compute_s, rounds):.0f}", "0.0", "", "")
        Console().print(shown)
    return found


def _delays(law: str, n: int, seed: int) -> list[Delays]:
    return [Delays(stragglers.parse(law), seed, rank) for rank in range(n)]
