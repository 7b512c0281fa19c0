"""The simulated network: times of messages that can be told beforehand, sharing against max-min, and its order."""

import itertools
import random
from collections.abc import Sequence

import max_min
import numpy as np
import pytest
import simpy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from simulated_machines import GAP_S, LATENCY_S, PACKET, everywhere, machine

from outpace.comm.clock import LONGEST_NAP_S, NAP_SHARE, SPIN_S
from outpace.comm.machines import ByPattern, Machine
from outpace.comm.network import Limits, Network

MODEL = 4_000_000  # bytes
SIZES = st.sampled_from([0, 1, 8, 1000, PACKET, PACKET + 1, 300_000])
Message = tuple[float, int, int, int]  # start, from, to, bytes


def delivered(machine: Machine, messages: Sequence[Message], n: int = 8, seed: int = 0, **links: object) -> list[float]:
    """When each of them is there."""
    return [there for _, there in run(machine, messages, n, seed, **links)]


def run(
    machine: Machine, messages: Sequence[Message], n: int = 8, seed: int = 0, **links: object
) -> list[tuple[float, float]]:
    """When each of them has been sent, and when it is there."""
    env = simpy.Environment()
    network = Network(env, machine, n, Limits(**links) if links else None, seed=seed)  # type: ignore[arg-type]
    times = [[0.0, 0.0] for _ in messages]

    def one(number: int, start: float, a: int, b: int, nbytes: int):  # type: ignore[no-untyped-def]
        yield env.timeout(start)
        transfer = network.transfer(a, b, nbytes)
        for i, event in enumerate((transfer.sent, transfer.delivered)):
            event.callbacks.append(lambda _, i=i: times[number].__setitem__(i, env.now))  # type: ignore[union-attr]

    for number, message in enumerate(messages):
        env.process(one(number, *message))
    env.run()
    return [(sent, there) for sent, there in times]


def test_a_message_alone() -> None:
    """Its packets follow one another, and the port in takes each in while it arrives."""
    ((sent, there),) = run(machine(), [(0.0, 0, 1, MODEL)])
    assert sent == pytest.approx(MODEL * GAP_S)
    assert there == pytest.approx(LATENCY_S + MODEL * GAP_S)
    assert delivered(machine(), [(0.0, 0, 1, 0)]) == [pytest.approx(LATENCY_S)]
    assert run(machine(), [(0.5, 2, 2, MODEL)]) == [(0.5, 0.5)]


def test_ways_do_not_share() -> None:
    there = delivered(machine(), [(0.0, 0, 1, MODEL), (0.0, 1, 0, MODEL), (0.0, 2, 3, MODEL)])
    assert there == pytest.approx([LATENCY_S + MODEL * GAP_S] * 3)


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("into", [True, False])
def test_any_number_of_empty_messages_at_once(into: bool, each: int) -> None:
    """They wait for a packet of a model, and then take no time: as of all workers that leave their server."""
    n = 1500
    empty = [(0.0, i, 0, 0) if into else (0.0, 0, i, 0) for i in range(2, n) for _ in range(each)]
    model = (0.0, 1, 0, MODEL) if into else (0.0, 0, 1, MODEL)
    there = delivered(machine(), [model, *empty], n)
    assert max(there[1:]) <= 1.001 * ((each + 1) * PACKET * GAP_S + LATENCY_S)
    assert there[0] == pytest.approx(LATENCY_S + MODEL * GAP_S)


@pytest.mark.parametrize("others", [1, 3, 6])
def test_a_small_message_waits_for_a_packet_of_each_other_pair(others: int) -> None:
    """Neither for whole models nor for nothing: whether its own rank sends them or its receiver gets them."""
    out = [(0.0, 0, 1 + i, MODEL) for i in range(others)] + [(1e-3, 0, 7, 8)]
    into = [(0.0, 1 + i, 0, MODEL) for i in range(others)] + [(1e-3, 7, 0, 8)]
    for messages in (out, into):
        waited = delivered(machine(), messages)[-1] - 1e-3 - LATENCY_S
        assert 0 < waited <= (others + 1) * PACKET * GAP_S


def test_on_the_same_pair_it_waits_for_all() -> None:
    model, ticket = delivered(machine(), [(0.0, 0, 1, MODEL), (1e-4, 0, 1, 8)])
    assert ticket >= model


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 1e-4, 1 / 3000]), st.integers(0, 3), st.integers(0, 3), SIZES), max_size=30
    ),
    st.integers(0, 99),
    st.sampled_from([0.0, 0.3, 1.0]),
)
@example([(0.0, 0, 1, 300_000), (0.0, 0, 1, 0)], 0, 0.0)  # one of few by which the second is earlier by rounding
def test_messages_of_a_pair_never_overtake(messages: list[Message], seed: int, jitter: float) -> None:
    """Whatever else is under way, and however times are rounded."""
    messages = sorted(messages, key=lambda message: message[0])
    env = simpy.Environment()
    network = Network(env, machine(jitter=jitter, gap_s_per_byte=everywhere(1 / 3e9)), 4, seed=seed)
    order: dict[tuple[int, int], list[int]] = {}

    def start():  # type: ignore[no-untyped-def]
        for number, (at, a, b, nbytes) in enumerate(messages):
            yield env.timeout(at - env.now)
            event = network.transfer(a, b, nbytes).delivered
            event.callbacks.append(lambda _, pair=(a, b), number=number: order.setdefault(pair, []).append(number))

    env.process(start())
    env.run()
    assert sum(map(len, order.values())) == len(messages)
    assert all(numbers == sorted(numbers) for numbers in order.values())


def scenarios(count: int) -> list[tuple[list[float], list[max_min.Flow]]]:
    """Rates of some ranks, and flows among them."""
    draw = random.Random(1)
    found = []
    for _ in range(count):
        n = draw.choice([3, 4, 6, 8])
        pairs = list(itertools.permutations(range(n), 2))
        draw.shuffle(pairs)
        flows = [(a, b, draw.choice([1e6, 2e6, 4e6])) for a, b in pairs[: draw.randint(2, 3 * n)]]
        found.append(([draw.choice([1e8, 1e8, 2e7, 5e7]) for _ in range(n)], flows))
    return found


def shared(rates: Sequence[float], flows: Sequence[max_min.Flow], **others: object) -> list[float]:
    free = machine(gap_s_per_byte=everywhere(0.0), latency_s=everywhere(0.0), **others)
    return delivered(free, [(0.0, a, b, int(nbytes)) for a, b, nbytes in flows], of_rank=dict(enumerate(rates)))


def test_flows_share_max_min() -> None:
    """To the size of packets: a message has 15 to 64 of them here. The last flow's end is what all of them wait for."""
    errors = []
    for rates, flows in scenarios(20):
        ends, expected = shared(rates, flows), max_min.filled(rates, flows)
        assert max(ends) == pytest.approx(max(expected), rel=0.04)
        errors += [abs(end / other - 1) for end, other in zip(ends, expected, strict=True)]
    assert np.mean(errors) < 0.06


@pytest.mark.skipif(not max_min.has_simgrid(), reason="needs SimGrid: Debian's python3-simgrid")
def test_the_oracle_says_the_same() -> None:
    for rates, flows in scenarios(4):
        assert max_min.of_simgrid(rates, flows) == pytest.approx(max_min.filled(rates, flows), rel=1e-3)
        assert max(shared(rates, flows)) == pytest.approx(max(max_min.of_simgrid(rates, flows)), rel=0.04)


def test_jitter_is_drawn_by_the_seed_and_keeps_flows_out_of_step() -> None:
    """Three models into a rank: without it all end together."""
    messages = [(0.0, i, 0, MODEL) for i in (1, 2, 3)]
    even, first, again, other = (
        delivered(machine(jitter=jitter), messages, seed=seed)
        for jitter, seed in ((0.0, 0), (0.3, 0), (0.3, 0), (0.3, 1))
    )
    assert max(even) - min(even) <= 2 * PACKET * GAP_S
    assert first == again != other
    assert max(first) - min(first) > 0.1 * max(even)
    assert max(first) == pytest.approx(max(even), rel=0.03)  # the port has as much to do


def test_gaps_follow_the_pattern() -> None:
    """A pair alone; two neighbours each way; three into one."""
    gap = ByPattern(duplex=1e-9, neighbours=2e-9, allreduce=5e-9, incast=3e-9)
    patterned = machine(gap_s_per_byte=gap)
    assert delivered(patterned, [(0.0, 0, 1, MODEL), (0.0, 1, 0, MODEL)]) == pytest.approx([MODEL * 1e-9] * 2, rel=0.01)
    ring = [(0.0, a, (a + step) % 4, MODEL) for a in range(4) for step in (1, 3)]
    assert max(delivered(patterned, ring)) == pytest.approx(2 * MODEL * 2e-9, rel=0.03)
    into = [(0.0, a, 0, MODEL) for a in (1, 2, 3)]
    assert max(delivered(patterned, into)) == pytest.approx(3 * MODEL * 3e-9, rel=0.03)
    env = simpy.Environment()
    env.run(Network(env, patterned, 2).collective("allreduce", range(2), MODEL))
    assert env.now == pytest.approx(MODEL * 5e-9, rel=0.01)


def test_links() -> None:
    """A rank's link holds up what it sends and what it gets, a pair's only that pair; a delay is one way."""
    slow = 1e7
    there = delivered(machine(), [(0.0, 0, 1, MODEL), (0.0, 2, 0, MODEL), (0.0, 3, 4, MODEL)], of_rank={0: slow})
    assert there == pytest.approx([MODEL / slow, MODEL / slow, MODEL * GAP_S], rel=0.01)
    there = delivered(machine(), [(0.0, 0, 1, MODEL), (0.0, 0, 2, MODEL)], of_pair={(0, 1): slow})
    assert there == pytest.approx([MODEL / slow, MODEL * GAP_S], rel=0.05)
    assert delivered(machine(), [(0.0, 0, 1, 0)], delay_s=0.05) == [pytest.approx(0.05 + LATENCY_S)]


def test_a_receiver_is_not_held_by_a_slow_sender() -> None:
    """What comes through a slow link leaves the port in to others meanwhile."""
    there = delivered(machine(), [(0.0, 1, 0, MODEL), (0.0, 2, 0, MODEL)], of_rank={1: 1e7})
    assert there == pytest.approx([MODEL / 1e7, MODEL * GAP_S], rel=0.05)


def test_links_that_change() -> None:
    """A tenth of the rate from 20 to 40 ms: what was under way at 20 ms goes on then."""
    changes = {0: iter([(0.0, 1e8), (0.02, 1e7), (0.04, 1e8)])}
    (there,) = delivered(machine(), [(0.0, 0, 1, MODEL)], changes=changes)
    assert there == pytest.approx(0.04 + (MODEL - 0.02 * 1e8 - 0.02 * 1e7) / 1e8, rel=0.1)


def test_neighbours_exchange_by_messages() -> None:
    env = simpy.Environment()
    network = Network(env, machine(), 4)
    env.run(network.collective("neighbor_allgather", [0, 1, 3], MODEL))
    assert env.now == pytest.approx(2 * MODEL * GAP_S, rel=0.01)


def test_nothing_is_left_under_way() -> None:
    """An empty schedule is how a deadlock is seen."""
    env = simpy.Environment()
    network = Network(env, machine(), 4, Limits(changes={0: ((i + 1.0, 1e8) for i in itertools.count(-1))}))
    env.run(network.transfer(0, 1, MODEL).delivered)
    env.run()
    assert env.peek() == float("inf")


@pytest.mark.parametrize("oversleep", [0.0, 6e-5])
def test_naps(oversleep: float) -> None:
    """The first look of `clock.wait` after so long."""
    network = Network(simpy.Environment(), machine(oversleep_s=oversleep), 1)
    for waited in (0.0, SPIN_S, 2 * SPIN_S, 1e-3, 9e-3, 0.0101, 0.05, 1.0):
        look = min(waited, SPIN_S)
        while look < waited:
            look += min(NAP_SHARE * look, LONGEST_NAP_S) + oversleep
        assert network.nap_s(waited) == pytest.approx(look - waited, abs=1e-9)


def test_processors() -> None:
    network = Network(simpy.Environment(), machine(), 1)
    assert network.message_cpu_s(MODEL) == 1e-6
    assert network.pass_s(MODEL) == pytest.approx(4e-4)
