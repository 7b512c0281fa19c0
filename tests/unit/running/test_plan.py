"""What a run's flags make of its identity."""

import pytest

from outpace.benchmarks.running.plan import Plan, make_plan, parse_flags
from outpace.benchmarks.sweeps.programs import config_of
from outpace.comm.errors import UserError


def plan(name: str, *flags: str, ranks: int = 2) -> Plan:
    return make_plan(name, *parse_flags(name, config_of(name), flags), ranks)


def test_ids_are_those_from_before_there_were_so_many_flags() -> None:
    """Sweeps and checkpoints of that time go on."""
    assert plan("d_psgd", "--problem", "quadratic:dim=4").config_id == "6bf9dfbc6f1871eb"
    slow = ("--problem", "digits", "--stragglers", "fixed:rank=0,factor=10", "--seed", "3", "--links", "none")
    assert plan("a_psgd", *slow).config_id == "dab5b74b657cb2a7"


def test_the_order_of_d_psgd_is_part_of_the_id() -> None:
    ids = [plan("d_psgd", "--order", order).config_id for order in ("consensus", "adapt-combine")]
    assert ids[0] == plan("d_psgd").config_id != ids[1]


@pytest.mark.parametrize(("graph", "hops"), [("ring", 4), ("static-exponential", 3), ("one-peer", 3)])
def test_nobody_waits_for_the_agreement_on_the_end(graph: str, hops: int) -> None:
    """It comes once everybody has heard of everybody, on graphs of any kind."""
    assert plan("d_psgd", "--topology", graph, ranks=8).hops == hops


def test_links_are_part_of_the_id() -> None:
    made = [
        plan("d_psgd", "--links", links) for links in ("none", "all:rate=1gbit", "all:rate=1000mbit", "all:rate=1mbit")
    ]
    assert [each.texts["links"] for each in made] == ["none", "all:rate=1gbit", "all:rate=1gbit", "all:rate=1mbit"]
    assert made[1].config_id == made[2].config_id
    assert len({each.config_id for each in made}) == 3


def test_servers_have_links_too() -> None:
    """Three ranks, the last of them the server."""
    assert plan("a_psgd", "--links", "fixed:rank=2,rate=1mbit", ranks=3).layout.servers == 1
    with pytest.raises(UserError, match="--links fixed: rank is 3; it must be at most 2, the last rank"):
        plan("a_psgd", "--links", "fixed:rank=3,rate=1mbit", ranks=3)
