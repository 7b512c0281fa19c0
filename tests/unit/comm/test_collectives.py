"""The closed forms of collectives against the same algorithms, message by message on a simulated network."""

import message_level as messages
import pytest
from simulated_machines import GAP_S, LATENCY_S, machine

from outpace.comm import collectives
from outpace.comm.collectives import is_power
from outpace.comm.network import Limits

FEW, MANY = (2, 3, 4, 5, 6, 7, 8), (8, 9, 12, 16)
CASES = [  # kind, bytes, the algorithm that MPICH takes for them, numbers of ranks
    ("barrier", 0, messages.barrier, FEW + MANY),
    ("bcast", 1_000, messages.bcast_tree(1_000), FEW + MANY),
    ("bcast", 4_000_000, messages.bcast_tree(4_000_000), (2, 4)),
    ("bcast", 100_000, messages.bcast_scatter(100_000, ring=False), (8, 16)),
    ("bcast", 100_000, messages.bcast_scatter(100_000, ring=True), (9, 12)),
    ("bcast", 4_000_000, messages.bcast_scatter(4_000_000, ring=True), MANY),
    ("gather", 10_000, messages.gather(10_000), (2, 4, 8, 16)),
    ("allgather", 1_000, messages.allgather_doubling(1_000), (2, 4, 8, 16)),
    ("allgather", 1_000, messages.allgather_bruck(1_000), (3, 5, 6, 7, 9, 12)),
    ("allgather", 1_000_000, messages.allgather_ring(1_000_000), FEW + MANY),
    ("allreduce", 1_000, messages.allreduce_doubling(1_000), (2, 4, 8, 16)),
    ("allreduce", 1_000_000, messages.allreduce_halving(1_000_000), FEW + MANY),
    ("alltoall", 100, messages.alltoall_bruck(100), MANY),
    ("alltoall", 10_000, messages.alltoall_at_once(10_000), FEW + MANY),
    ("alltoall", 100_000, messages.alltoall_pairwise(100_000), FEW + MANY),
]
SPREAD = [(kind, nbytes, program, n) for kind, nbytes, program, sizes in CASES for n in sorted({*sizes})]
BOUNDED = [("gather", 10_000, messages.gather(10_000)), ("allreduce", 1_000, messages.allreduce_doubling(1_000))]


@pytest.mark.parametrize(("kind", "nbytes", "program", "n"), SPREAD, ids=lambda value: str(value)[:9])
def test_closed_forms(kind: collectives.Kind, nbytes: int, program: messages.Program, n: int) -> None:
    assert messages.Ranks(machine(), n).seconds(program) == pytest.approx(closed(kind, n, nbytes), rel=0.02)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 12])
def test_the_ring(n: int) -> None:
    rounds, nbytes = collectives.cost("allreduce", n, 1_000_000, "ring")
    seconds = messages.Ranks(machine(), n).seconds(messages.allreduce_ring(1_000_000))
    assert seconds == pytest.approx(rounds * LATENCY_S + nbytes * GAP_S, rel=0.002)


@pytest.mark.parametrize(("kind", "nbytes", "program"), BOUNDED, ids=["gather", "allreduce"])
@pytest.mark.parametrize("n", [3, 5, 6, 7, 9, 12])
def test_bounds_where_ranks_are_no_power_of_two(
    kind: collectives.Kind, nbytes: int, program: messages.Program, n: int
) -> None:
    seconds, bound = messages.Ranks(machine(), n).seconds(program), closed(kind, n, nbytes)
    assert not is_power(n)
    assert bound * 0.74 < seconds < bound * 1.001


@pytest.mark.parametrize("n", [4, 8])
def test_one_slow_link_holds_all_up(n: int) -> None:
    """Rank 1 has a tenth of the rate, so all rounds of an allreduce take ten times as long."""
    slow = Limits(of_rank={1: 0.1 / GAP_S})
    ranks = messages.Ranks(machine(), n, slow)
    over = ranks.network.collective("allreduce", range(n), 1_000_000)
    ranks.env.run(over)
    closed_s = ranks.env.now
    seconds = messages.Ranks(machine(), n, slow).seconds(messages.allreduce_halving(1_000_000))
    assert seconds == pytest.approx(closed_s, rel=0.02)
    assert closed_s > 9 * closed("allreduce", n, 1_000_000)


def closed(kind: collectives.Kind, n: int, nbytes: int) -> float:
    rounds, of_all = collectives.cost(kind, n, nbytes)
    return rounds * LATENCY_S + of_all * GAP_S
