"""From seconds of short and long exchanges to a machine: t = rounds latency + bytes gap, for each pattern.

Rounds and bytes are those of one exchange at one port. For the pattern at a server they are found by the simulated
network itself, which is given the same asks: what it takes is in proportion to the gap.

Of all samples the fastest counts: whatever else a machine does only adds to them. The spread says how much that was.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import simpy

from outpace.benchmarks.calibration.measure import ASKS, BATCH, PASS, RANKS, SHORT, Samples
from outpace.comm.collectives import Cost, cost
from outpace.comm.machines import ByPattern, Machine
from outpace.comm.network import Network

PATTERNS: Final = ("duplex", "neighbours", "allreduce", "incast")
SEEDS: Final = 8  # of the jitter, whose mean counts


def machine(
    name: str, source: str, links: str, sizes: Mapping[str, int], samples: Samples, overlapping: int
) -> Machine:
    """`sizes` are the bytes of the long messages. Of `samples` those of `measure.patterns` and `processors`, and
    seconds of a gradient as `compute SPEC`. `overlapping` is the longest message that travels while its ranks sleep."""
    fastest = {name: float(np.min(seconds)) for name, seconds in samples.items()}
    gaps: dict[str, float] = {}
    latencies: dict[str, float] = {}
    spread: dict[str, float] = {}
    for pattern, nbytes in sizes.items():
        short, long = f"{pattern}, short", f"{pattern}, long"
        latencies[pattern] = max(0.0, fastest[short]) / _cost(pattern, SHORT).rounds
        path = _cost(pattern, nbytes)
        gaps[pattern] = max(0.0, fastest[long] - path.rounds * latencies[pattern]) / path.nbytes
        spread |= {f"latency_s.{pattern}": _spread(samples[short]), f"gap_s_per_byte.{pattern}": _spread(samples[long])}
    problems = [what for what in samples if what.startswith("compute ")]
    for what, key in {"message": "cpu_per_message_s", "pass": "pass_s_per_byte", "nap": "oversleep_s"}.items():
        spread[key] = _spread(samples[what])
    return Machine(
        name=name,
        source=source,
        links=links,
        eager_bytes=overlapping,
        gap_s_per_byte=ByPattern(**gaps),
        latency_s=ByPattern(**latencies),
        cpu_per_message_s=fastest["message"],
        pass_s_per_byte=fastest["pass"] / PASS,
        oversleep_s=max(0.0, fastest["nap"]),
        compute_s_per_sample={what.removeprefix("compute "): fastest[what] / BATCH for what in problems},
        spread=spread | {what: _spread(samples[what]) for what in problems},
    )


def _spread(seconds: Sequence[float]) -> float:
    """Half the distance of the quartiles, over the median."""
    low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    return float((high - low) / 2 / middle) if middle > 0 else 0.0


def _cost(pattern: str, nbytes: int) -> Cost:
    """Of one exchange: rounds, one after the other, and the bytes that pass one port."""
    match pattern:
        case "duplex":
            return Cost(1, nbytes)
        case "neighbours":
            return Cost(1, 2 * nbytes)
        case "allreduce":
            return cost("allreduce", RANKS, nbytes)
        case _:
            return Cost(2 * ASKS, _asked() * nbytes)


@functools.cache
def _asked() -> float:
    """What passes, one after the other, when all ask a server: in messages, long ones, by the simulated network."""
    nbytes = 2**20
    return float(np.mean([_asking(seed, nbytes) for seed in range(SEEDS)])) / nbytes


def _asking(seed: int, nbytes: int) -> float:
    env, server = simpy.Environment(), RANKS - 1
    network = Network(env, _unit(), RANKS, seed=seed)

    def worker(rank: int):  # type: ignore[no-untyped-def]
        for _ in range(ASKS):
            yield network.transfer(rank, server, nbytes).delivered
            yield network.transfer(server, rank, nbytes).delivered

    for rank in range(server):
        env.process(worker(rank))
    env.run()
    return float(env.now)


def _unit() -> Machine:
    """A second a byte, and nothing else."""
    one, none = (ByPattern(duplex=v, neighbours=v, allreduce=v, incast=v) for v in (1.0, 0.0))
    return Machine(
        name="unit", source="", gap_s_per_byte=one, latency_s=none, cpu_per_message_s=0.0, pass_s_per_byte=0.0
    )
