"""The SPECs of `--links`: what they mean, and what is refused with which words."""

from pathlib import Path

import pytest

from outpace.benchmarks.machine import links
from outpace.comm.errors import UserError

MBIT = 1e6


def of_ranks(text: str, ranks: int) -> list[float | None]:
    spec = links.parse(text)
    links.check_ranks(spec, ranks)
    return [spec.of_rank(rank) for rank in range(ranks)]


def to_others(text: str, ranks: int) -> list[dict[int, float]]:
    spec = links.parse(text)
    links.check_ranks(spec, ranks)
    return [spec.to_others(rank, ranks) for rank in range(ranks)]


@pytest.mark.parametrize(
    ("text", "mbits"),
    [
        ("none", [None, None, None]),
        ("all:rate=1gbit", [1000, 1000, 1000]),
        ("fixed:rank=1,rate=100mbit", [None, 100, None]),
        ("fixed:rank=0+2,rate=1.5mbit,others=1gbit", [1.5, 1000, 1.5]),
        ("fixed:rank=2,factor=8,others=1gbit", [1000, 1000, 125]),
        ("shared:rate=1gbit,share=0.1,period=2,fraction=0.5", [1000, 1000, 1000]),  # before it begins
    ],
)
def test_rates_of_ranks(text: str, mbits: list[float | None]) -> None:
    assert of_ranks(text, 3) == [None if rate is None else rate * MBIT for rate in mbits]


def test_rates_of_pairs_are_those_of_both_ways(tmp_path: Path) -> None:
    path = tmp_path / "links.csv"
    path.write_text("rate,a,b\n\n 10mbit, 2,0 \n5mbit,1,2\n10mbit,0,2\n")
    assert to_others(f"pairs:file={path}", 3) == [{2: 10e6}, {2: 5e6}, {0: 10e6, 1: 5e6}]
    rates = to_others(f"pairs:file={path},default=1gbit", 4)
    assert rates == [
        {1: 1e9, 2: 10e6, 3: 1e9},
        {0: 1e9, 2: 5e6, 3: 1e9},
        {0: 10e6, 1: 5e6, 3: 1e9},
        {0: 1e9, 1: 1e9, 2: 1e9},
    ]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("none", "none"),
        ("all:rate=1000mbit", "all:rate=1gbit"),
        ("all:delay=0.0050s,rate=0.3gbit", "all:rate=300mbit,delay=5ms"),
        ("fixed:others=1000000kbit,factor=10.0,rank=3", "fixed:rank=3,factor=10,others=1gbit"),
        ("pairs:file=a.csv", "pairs:file=a.csv"),
        ("shared:rate=1gbit,share=.1,period=2.0,fraction=0.5", "shared:rate=1gbit,share=0.1,period=2,fraction=0.5"),
    ],
)
def test_equal_links_are_equal_text(text: str, same: str) -> None:
    assert links.canonical(text) == links.canonical(same) == same


@pytest.mark.parametrize("rate", ["1", "fast", "1gb", "-1gbit", "0mbit", "7kbit", "1 gbit", "1e3mbit", "gbit", "٣gbit"])
@pytest.mark.parametrize("spec", ["all:rate=", "fixed:rank=0,rate=", "fixed:rank=0,rate=1gbit,others="])
def test_rates_that_are_none(spec: str, rate: str) -> None:
    with pytest.raises(UserError) as raised:
        links.parse(spec + rate)
    name, key = spec.split(":")[0], spec.split(",")[-1].split(":")[-1].rstrip("=")
    rule = "it must be from 8kbit to 100gbit; units: kbit, mbit, gbit"
    assert str(raised.value) == f"--links {name}: {key} is '{rate}'; {rule}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("slow", "unknown name 'slow'; allowed: none, all, fixed, pairs, shared"),
        ("none:rate=1gbit", "unknown key 'rate'; allowed: none"),
        ("all", "--links all: needs rate="),
        ("all:rate=1gbit,delay=0ms", "delay is '0ms'; it must be from 1us to 10s; units: us, ms, s"),
        ("fixed:rank=1", "--links fixed: needs rate= or factor=, one of them"),
        ("fixed:rank=1,rate=1mbit,factor=2,others=2mbit", "--links fixed: needs rate= or factor=, one of them"),
        ("fixed:rank=1,factor=2", "--links fixed: factor= needs others="),
        ("fixed:rank=1,factor=0.5,others=1gbit", "factor is 0.5; it must be at least 1"),
        ("fixed:rank=1,factor=1000,others=1mbit", "others / factor is 1000 bit/s; it must be at least 8kbit"),
        ("fixed:rank=one,rate=1gbit", "rank is 'one', not a whole number"),
        ("shared:rate=1gbit,share=0.1,fraction=0.5", "needs period="),
        ("shared:rate=1gbit,share=0.1,period=0,fraction=0.5", "period is 0; it must be at least 0.1"),
        ("shared:rate=1gbit,share=0,period=2,fraction=0.5", "share is 0; it must be more than 0 and at most 1"),
        ("shared:rate=1gbit,share=1.5,period=2,fraction=0.5", "share is 1.5; it must be more than 0 and at most 1"),
        ("shared:rate=1gbit,share=0.1,period=2,fraction=0", "fraction is 0; it must be more than 0 and less than 1"),
        ("shared:rate=1gbit,share=0.1,period=2,fraction=1", "fraction is 1; it must be more than 0 and less than 1"),
        ("shared:rate=1mbit,share=0.001,period=2,fraction=0.5", "share x rate is 1000 bit/s; it must be at least 8kb"),
    ],
)
def test_bad_specs_name_value_and_rule(text: str, reason: str) -> None:
    with pytest.raises(UserError) as raised:
        links.parse(text)
    assert reason in str(raised.value)


def test_more_ranks_than_addresses() -> None:
    links.check_ranks(links.parse("all:rate=1gbit"), 253)
    links.check_ranks(links.parse("none"), 1000)
    with pytest.raises(UserError, match="--links: 254 ranks; at most 253 have an address"):
        links.check_ranks(links.parse("all:rate=1gbit"), 254)


def test_a_rank_beyond() -> None:
    with pytest.raises(UserError, match="--links fixed: rank is 3; it must be at most 2, the last rank"):
        of_ranks("fixed:rank=1+3,rate=1gbit", 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", ": there are no rates in it; needs lines of a, b, rate"),
        (b"a,b,rate\n\n", ": there are no rates in it"),
        (b"a,b\n0,1\n", ", line 1: the columns are a, b; they must be a, b, rate"),
        (b"0,1,1gbit\n", ", line 1: the columns are 0, 1, 1gbit; they must be a, b, rate"),
        (b"a,b,rate\n0,1,1gbit\n0,2\n", ", line 3: 2 value(s); there must be 3"),
        (b"a,b,rate\n\n0,1,1gbit,9\n", ", line 3: 4 value(s); there must be 3"),
        (b"a,b,rate\n1,1,1gbit\n", ", line 2: a and b are both 1; a pair is of two ranks"),
        (b"a,b,rate\n0,1,1gbit\n1,0,1mbit\n", ", line 3: ranks 1 and 0 again, with another rate"),
        (b"a,b,rate\n0,-1,1gbit\n", ", line 2: b is '-1', not a rank"),
        (b"b,a,rate\n0,x,1gbit\n", ", line 2: a is 'x', not a rank"),
        (b"a,b,rate\n0," + b"9" * 5000 + b",1gbit\n", f", line 2: b is '{40 * '9'}', not a rank"),
        (b"a,b,rate\n0,1,1gbit\n4,1,1gbit\n", ", line 3: a is 4; it must be at most 3, the last rank"),
        (b"a,b,rate\r\n0,1,0mbit\r\n", ", line 2: rate is '0mbit'; it must be from 8kbit to 100gbit"),
        (b'a,b,rate\n0,1,"1gbit\n', ", line 2: unexpected end of data"),
        (b"a,b,rate\n0,1,\xff\n", ": not a text file"),
    ],
)
def test_bad_tables_name_their_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "links.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        to_others(f"pairs:file={path}", 4)
    assert f"{path}{reason}" in str(raised.value)


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--links pairs: cannot read .*: it is a folder"):
        to_others(f"pairs:file={tmp_path}", 2)
    with pytest.raises(UserError, match=r"--links pairs: cannot read .*: no such file"):
        to_others(f"pairs:file={tmp_path / 'none.csv'}", 2)
