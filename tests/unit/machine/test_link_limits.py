"""A SPEC of `--links` means the same rates to the simulated network as to the kernel."""

import itertools
from pathlib import Path

import pytest
from simulated_machines import machine

from outpace.benchmarks.machine import link_limits, links
from outpace.benchmarks.machine.link_changes import changes
from outpace.benchmarks.machine.link_limits import limits
from outpace.comm.errors import UserError
from outpace.comm.network import Limits

MBIT = links.GOODPUT * 1e6 / 8


def of(text: str, ranks: int = 3, seed: int = 0) -> Limits:
    return limits(links.parse(text), ranks, seed)


def test_rates_of_ranks() -> None:
    assert of("none") == Limits()
    assert of("all:rate=20mbit,delay=5ms") == Limits(dict.fromkeys(range(3), 20 * MBIT), delay_s=0.005)
    slow = of("fixed:rank=1,factor=10,others=1gbit").of_rank
    assert slow == pytest.approx({0: 1000 * MBIT, 1: 100 * MBIT, 2: 1000 * MBIT})
    assert of("fixed:rank=1,rate=10mbit").of_rank == {1: 10 * MBIT}


def test_rates_of_pairs(tmp_path: Path) -> None:
    table = tmp_path / "rates.csv"
    table.write_text("a,b,rate\n0,1,10mbit\n")
    pairs = of(f"pairs:file={table},default=50mbit").of_pair
    assert pairs == {(a, b): (10 if {a, b} == {0, 1} else 50) * MBIT for a, b in itertools.permutations(range(3), 2)}


def test_changes_are_those_of_a_real_run() -> None:
    text = "shared:rate=20mbit,share=0.1,period=2,fraction=0.5"
    found = of(text, seed=3).changes
    for rank in range(3):
        real = itertools.islice(changes(links.parse(text), 3, rank), 9)  # type: ignore[arg-type]
        here = itertools.islice(found[rank], 9)
        assert list(here) == [(at_s, links.GOODPUT * rate) for at_s, rate in real]


def test_a_machine_that_was_measured_behind_links_has_them_already() -> None:
    slow = machine(links="all:rate=20mbit")
    assert link_limits.on(slow, "all:rate=20000kbit", 3, seed=0) == Limits()
    for other in ("none", "all:rate=50mbit"):
        with pytest.raises(UserError, match="was measured behind all:rate=20mbit"):
            link_limits.on(slow, other, 3, seed=0)
    assert link_limits.on(machine(), "all:rate=20mbit", 3, seed=0) == of("all:rate=20mbit")
