"""Who is to blame for the time of a run, found in what the ranks recorded: computing, waiting, exchanging.

What was injected is known, and only names the cause: that a worker is slow, or a link, or a server, is seen in times.
Somebody is named only for a loss that is large, and lasting: on a busy machine every rank is late at times.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from outpace.benchmarks.explaining.paces import Paces, serving_s
from outpace.benchmarks.explaining.rounds import Rounds
from outpace.benchmarks.explaining.wires import Wires, exchanges
from outpace.benchmarks.trace.pairs import rate
from outpace.benchmarks.trace.run import Run

LEAST_SHARE: Final = 0.05  # of the run's time that somebody must have cost to be named
LEAST_OF_A_WORKER: Final = 0.025  # the same of a worker nobody waits for: one of 16 costs no more than a sixteenth
DECISIVE: Final = 0.2  # of the usual time: an excess that counts
SIGMAS: Final = 4.0  # standard deviations by which a worker is late more often than one of equals by chance
LASTING: Final = 0.85  # probability that a gradient of a slow worker takes longer than another's
BUSY: Final = 0.7  # share of the run in which a server, or its link, is at work, from which it is what all wait for
WAITED: Final = 0.2  # share of the workers' time that they must then wait; of the run that a slow link must be at work
BY_BYTES: Final = 0.15  # share of a transfer's time that the bytes must explain, at the rate that was measured


@dataclass(frozen=True)
class Culprit:
    """`rank` is None where all workers are held up, now this one, now that one. `share` is the part of the time lost:
    that of the run, or, where no gradient waits for it, that of the exchanges (`of`)."""

    rank: int | None
    cause: str  # compute, link or server
    share: float
    why: str
    of: str = "run"
    injected: bool = False  # most of it by the straggler dial


def named(found: Iterable[Culprit]) -> list[int]:
    """Their ranks."""
    return [culprit.rank for culprit in found if culprit.rank is not None]


def of_rounds(run: Run, rounds: Rounds, wires: Wires) -> list[Culprit]:
    """The culprits of a synchronous program, the dearest first."""
    n, wall_s = run.attrs["n_workers"], float(run.attrs["wall_s"])
    path = rounds.critical_path()
    lost_s = rounds.lost_s(path)
    usual_s = float(np.median(rounds.usual_s))
    late = (rounds.busy_s > (1 + DECISIVE) * rounds.usual_s).sum(axis=1)  # rounds, by worker
    injected_s = np.where(path >= 0, rounds.injected_s[path, np.arange(len(path))], 0.0)
    found = []
    for r in range(n):
        last = path == r
        share = float(lost_s[last].sum()) / wall_s
        if share < LEAST_SHARE or not _more_than_chance(int(late[r]), int(late.sum()), n):
            continue
        injected = injected_s[last].sum() > lost_s[last].sum() / 2
        each = f"{1e3 * np.median(lost_s[last]):.3g} ms"
        why = f"ended {int(last.sum())} of {len(path)} rounds last, by {each} in the median"
        found.append(Culprit(r, "compute", share, why, injected=bool(injected)))
    others = ~np.isin(path, named(found))
    share = float(np.minimum(injected_s, lost_s)[others].sum()) / wall_s
    if share >= LEAST_SHARE:
        count = int((others & (injected_s > DECISIVE * usual_s)).sum())
        why = f"{count} of {len(path)} rounds waited for a delay, now of this rank, now of that"
        found.append(Culprit(None, "compute", share, why, injected=True))
    on_path = path >= 0
    transferring_s = wall_s - float(rounds.busy_s[path[on_path], np.flatnonzero(on_path)].sum())
    for r in np.flatnonzero(wires.slow).tolist():
        share = transferring_s / wall_s * (1 - wires.rate[r] / wires.usual)
        if share >= LEAST_SHARE and wires.busy_s[r] > BY_BYTES * transferring_s:
            found.append(Culprit(r, "link", float(share), _of_link(wires, r)))
    return sorted(found, key=lambda culprit: -culprit.share)


def of_paces(run: Run, paces: Paces, wires: Wires) -> list[Culprit]:
    """The culprits of an asynchronous program, the dearest first."""
    n = run.attrs["n_workers"]
    servers, found = _of_servers(run, paces, wires), []
    for r in range(n):
        usual_s = float(np.median(np.delete(paces.cycle_s, r))) if n > 1 else float(paces.cycle_s[0])
        faster = paces.cycle_s.copy()
        faster[r] = min(faster[r], usual_s)
        share = 1 - float((1 / paces.cycle_s).sum() / (1 / faster).sum())
        if share < LEAST_OF_A_WORKER or paces.cycle_s[r] < (1 + DECISIVE) * usual_s:
            continue
        if paces.persistence(r, paces.single_s) < LASTING:
            continue
        of_each = {name: getattr(paces, f"{name}_s") for name in ("injected", "compute", "wait")}
        more = {name: times[r] - float(np.median(times)) for name, times in of_each.items()}
        most = max(more, key=lambda name: more[name])
        if most == "wait" and servers:  # where all wait, some wait longer
            continue
        longer = f"a gradient takes {paces.cycle_s[r] / usual_s:.3g} times as long as the others'"
        found.append(Culprit(r, "link" if most == "wait" else "compute", share, longer, injected=most == "injected"))
    kept = paces.cycle_s - paces.injected_s
    kept[named(found)] = paces.cycle_s[named(found)]
    share = 1 - paces.rate() / paces.rate(kept)
    if share >= LEAST_SHARE:
        why = "delays hold up the gradients of one worker after the other"
        found.append(Culprit(None, "compute", share, why, injected=True))
    found += servers
    found += _of_exchanges(run, wires, named(found))
    return sorted(found, key=lambda culprit: -culprit.share)


def _of_servers(run: Run, paces: Paces, wires: Wires) -> list[Culprit]:
    """Servers that all workers wait for."""
    n, wall_s = run.attrs["n_workers"], float(run.attrs["wall_s"])
    waited = float(paces.wait_s.sum() / paces.cycle_s.sum())
    if waited < WAITED:
        return []
    found = []
    for server, served_s in enumerate(serving_s(run), n):
        if served_s > BUSY * wall_s:
            why = f"at work in {100 * served_s / wall_s:.0f} % of the time"
            found.append(Culprit(server, "server", waited, why))
        elif wires.steady[server] and wires.busy_s[server] > (WAITED if wires.slow[server] else BUSY) * wall_s:
            found.append(Culprit(server, "link", waited, _of_link(wires, server)))
    return found


def _of_exchanges(run: Run, wires: Wires, known: list[int]) -> list[Culprit]:
    """Slow links that hold up averagings of two workers, which no gradient waits for."""
    n = run.attrs["n_workers"]
    lasted = {pair: times for pair, times in exchanges(run).items() if max(pair) < n}
    total_s = sum(float(times.sum()) for times in lasted.values())
    found = []
    for r in np.flatnonzero(wires.slow[:n]).tolist():
        others = [times for pair, times in lasted.items() if r not in pair]
        of_rank = [times for pair, times in lasted.items() if r in pair]
        if r in known or not others or not of_rank:
            continue
        usual_s = float(np.median(np.concatenate(others)))
        share = sum(float(np.maximum(0, times - usual_s).sum()) for times in of_rank) / total_s
        if share >= WAITED:
            longer = float(np.median(np.concatenate(of_rank))) / usual_s
            why = f"exchanges with it take {longer:.3g} times as long as the others'; {_of_link(wires, r)}"
            found.append(Culprit(r, "link", share, why, "exchanges"))
    return found


def _of_link(wires: Wires, rank: int) -> str:
    return f"its link has {rate(wires.rate[rank])}, the median {rate(wires.usual)}"


def _more_than_chance(count: int, of: int, n: int) -> bool:
    """Whether one of n equal workers is this often the last only by a chance of SIGMAS standard deviations."""
    return count - of / n > SIGMAS * math.sqrt(max(1, of) / n * (1 - 1 / n))
