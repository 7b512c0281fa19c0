"""What is fitted to the times of a simulated machine is that machine."""

import numpy as np
import pytest
from message_level import Ranks, Steps, allreduce_halving
from simulated_machines import machine

from outpace.benchmarks.calibration import fit
from outpace.benchmarks.calibration.measure import ASKS, BATCH, PASS, RANKS, SHORT, Samples
from outpace.comm.machines import ByPattern, Machine

GAPS = ByPattern(duplex=1e-9, neighbours=2e-9, allreduce=3e-9, incast=4e-9)
LATENCIES = ByPattern(duplex=1e-5, neighbours=2e-5, allreduce=3e-5, incast=4e-5)
LONG = 4_000_000


def exchange(pattern: str, nbytes: int):  # type: ignore[no-untyped-def]
    """What a rank does in the pattern."""

    def program(ranks: Ranks, i: int) -> Steps:
        network = ranks.network
        if pattern == "duplex":
            yield network.transfer(i, i ^ 1, nbytes).delivered
        elif pattern == "neighbours":
            yield network.collective("neighbor_allgather", [i, (i - 1) % 4, (i + 1) % 4], nbytes)
        elif pattern == "incast" and i < RANKS - 1:
            for _ in range(ASKS):
                yield network.transfer(i, RANKS - 1, nbytes).delivered
                yield network.transfer(RANKS - 1, i, nbytes).delivered
        elif pattern == "allreduce" and nbytes == LONG:
            yield from allreduce_halving(nbytes)(ranks, i)
        elif pattern == "allreduce":
            yield from (ranks.env.timeout(each) for each in [LATENCIES.allreduce + nbytes * GAPS.allreduce] * 2)

    return program


def timed(pattern: str, nbytes: int) -> float:
    made = machine(gap_s_per_byte=GAPS, latency_s=LATENCIES)
    if pattern == "allreduce":  # messages of an allreduce are duplex, and its pattern is the collective's own
        made = machine(gap_s_per_byte=everywhere(GAPS.allreduce), latency_s=everywhere(LATENCIES.allreduce))
    return Ranks(made, RANKS).seconds(exchange(pattern, nbytes))


def everywhere(value: float) -> ByPattern:
    return ByPattern(duplex=value, neighbours=value, allreduce=value, incast=value)


@pytest.fixture(scope="module")
def fitted() -> Machine:
    samples: Samples = {"message": [3e-6], "pass": [PASS * 1e-10], "nap": [5e-5], "compute digits": [BATCH * 1e-5]}
    for pattern in fit.PATTERNS:
        samples[f"{pattern}, short"] = [timed(pattern, SHORT) * factor for factor in (1.0, 1.1, 1.2)]
        samples[f"{pattern}, long"] = [timed(pattern, LONG)]
    return fit.machine("made", "for a test", "none", dict.fromkeys(fit.PATTERNS, LONG), samples, 2**20)


@pytest.mark.parametrize("pattern", fit.PATTERNS)
def test_patterns(fitted: Machine, pattern: str) -> None:
    within = 0.15 if pattern == "incast" else 0.02  # a server's flows are in step here, and jittered where it is fitted
    assert getattr(fitted.gap_s_per_byte, pattern) == pytest.approx(getattr(GAPS, pattern), rel=within)


@pytest.mark.parametrize("pattern", ["duplex", "allreduce"])
def test_latencies(fitted: Machine, pattern: str) -> None:
    """Of the others a short message is through before the next one is there, so that no pattern is to be seen."""
    assert getattr(fitted.latency_s, pattern) == pytest.approx(getattr(LATENCIES, pattern), rel=0.02)


def test_processors(fitted: Machine) -> None:
    assert fitted.cpu_per_message_s == 3e-6
    assert fitted.pass_s_per_byte == pytest.approx(1e-10)
    assert fitted.oversleep_s == 5e-5
    assert fitted.eager_bytes == 2**20
    assert fitted.compute_s_per_sample == {"digits": pytest.approx(1e-5)}


def test_spreads(fitted: Machine) -> None:
    """Half the distance of the quartiles over the median: of 1, 1.1 and 1.2 they are 1.05 and 1.15."""
    assert fitted.spread["latency_s.duplex"] == pytest.approx(0.05 / 1.1)
    assert fitted.spread["gap_s_per_byte.duplex"] == 0


def test_the_law_at_a_server_is_in_proportion_to_the_gap() -> None:
    """As the fit takes it to be: twelve asks and answers through one port, of which some overlap."""
    each = [fit._asking(seed, 2**20) / 2**20 for seed in range(4)]
    assert all(3 * ASKS < passed < 6 * ASKS for passed in each)
    assert np.ptp(each) > 0
