"""Slow networks: the rate of every rank's link, or of every pair of ranks, as a SPEC of `--links`.

Rates are line rates in bits per second, headers included, each way at the same time. This module says what a SPEC
means; `namespaces` makes such links.
"""

import csv
from dataclasses import dataclass
from typing import Annotated, Final

from outpace.comm import inputs, spec
from outpace.comm.errors import UserError
from outpace.comm.spec import Factor, InputFile, NonNegativeInt, Probability, Quantity, Range

RATE: Final = Quantity((("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9)), least="8kbit", most="100gbit")
Rate = Annotated[str, RATE]
DELAY: Final = Quantity((("us", 1e-6), ("ms", 1e-3), ("s", 1.0)), least="1us", most="10s")
Delay = Annotated[str, DELAY]
GOODPUT: Final = 1448 / 1514  # of a rate: what is left of an Ethernet frame without headers
MOST_RANKS: Final = 253  # that have an address behind one switch
COLUMNS: Final = ("a", "b", "rate")


class Links:
    delay: str | None = None  # one way, from any rank to any other

    def of_rank(self, rank: int) -> float | None:
        """Bits per second of the rank's link, at first; None where it has no limit."""
        return None

    def to_others(self, rank: int, ranks: int) -> dict[int, float]:
        """Bits per second from the rank to each of those others to whom it has a rate of its own."""
        return {}

    @property
    def delay_s(self) -> float:
        return DELAY.number(self.delay) if self.delay else 0.0

    def check(self) -> None:
        """Raise UserError for keys that do not go together."""

    def check_ranks(self, ranks: int) -> None:
        """Raise UserError where a rank is named that is not among so many."""


@dataclass(frozen=True, kw_only=True)
class NoLinks(Links):
    """The network as it is."""


@dataclass(frozen=True, kw_only=True)
class All(Links):
    """Every rank is behind a link of this rate."""

    rate: Rate
    delay: Delay | None = None

    def of_rank(self, rank: int) -> float:
        return RATE.number(self.rate)


@dataclass(frozen=True, kw_only=True)
class Fixed(Links):
    """The named ranks are behind slow links, of a rate or by a factor slower than the others'."""

    rank: tuple[NonNegativeInt, ...]
    rate: Rate | None = None
    factor: Factor | None = None
    others: Rate | None = None
    delay: Delay | None = None

    def of_rank(self, rank: int) -> float | None:
        others = RATE.number(self.others) if self.others else None
        if rank not in self.rank:
            return others
        return RATE.number(self.rate) if self.rate else (others or 0.0) / (self.factor or 1.0)

    def check(self) -> None:
        if (self.rate is None) == (self.factor is None):
            raise UserError("--links fixed: needs rate= or factor=, one of them")
        if self.factor is not None and self.others is None:
            raise UserError("--links fixed: factor= needs others=, the rate that it divides")
        _require_least(self.of_rank(self.rank[0]) or 0.0, "--links fixed: others / factor")

    def check_ranks(self, ranks: int) -> None:
        if max(self.rank) >= ranks:
            raise UserError(f"--links fixed: rank is {max(self.rank)}; it must be at most {ranks - 1}, the last rank")


@dataclass(frozen=True, kw_only=True)
class Pairs(Links):
    """Every pair of ranks has a rate of its own, each way: a table with the columns a, b and rate."""

    file: InputFile
    default: Rate | None = None  # of pairs that are not in the table
    delay: Delay | None = None

    def to_others(self, rank: int, ranks: int) -> dict[int, float]:
        rates = dict.fromkeys(range(ranks), RATE.number(self.default)) if self.default else {}
        for (a, b), rate in self.table().items():
            if rank in (a, b):
                rates[a + b - rank] = RATE.number(rate)
        rates.pop(rank, None)
        return rates

    def table(self, ranks: int | None = None) -> dict[tuple[int, int], str]:
        """The rate of each pair (a, b), a < b, that the file has. Raises UserError for a file that is no such table,
        with its line, and for ranks that are not among so many."""
        what = f"--links pairs: {self.file}"
        rows = csv.reader(inputs.text(self.file, "--links pairs: ").splitlines(), strict=True)
        rates: dict[tuple[int, int], str] = {}
        order: list[int] = []
        try:
            for row in rows:
                line = f"{what}, line {rows.line_num}: "
                cells = [cell.strip() for cell in row]
                if not any(cells):
                    continue
                if not order:
                    if sorted(cells) != sorted(COLUMNS):
                        raise UserError(f"{line}the columns are {', '.join(cells)}; they must be {', '.join(COLUMNS)}")
                    order = [cells.index(name) for name in COLUMNS]
                    continue
                if len(cells) != len(COLUMNS):
                    raise UserError(f"{line}{len(cells)} value(s); there must be {len(COLUMNS)}")
                a, b = (_rank(cells[order[i]], ranks, f"{line}{COLUMNS[i]}") for i in (0, 1))
                if a == b:
                    raise UserError(f"{line}a and b are both {a}; a pair is of two ranks")
                rate = RATE.read(cells[order[2]], f"{line}rate")
                if rates.setdefault((min(a, b), max(a, b)), rate) != rate:
                    raise UserError(f"{line}ranks {a} and {b} again, with another rate")
        except csv.Error as error:
            raise UserError(f"{what}, line {rows.line_num}: {error}") from None
        if not rates:
            raise UserError(f"{what}: there are no rates in it; needs lines of {', '.join(COLUMNS)}")
        return rates

    def check_ranks(self, ranks: int) -> None:
        self.table(ranks)


@dataclass(frozen=True, kw_only=True)
class Shared(Links):
    """Others use the network as well: for a fraction of every period a rank's link has only a share of its rate."""

    rate: Rate
    share: Probability
    period: Annotated[float, Range(least=0.1, most=1e9)]  # s
    fraction: Annotated[float, Range(above=0, below=1)]
    delay: Delay | None = None

    def of_rank(self, rank: int) -> float:
        return RATE.number(self.rate)

    def check(self) -> None:
        _require_least(self.share * RATE.number(self.rate), "--links shared: share x rate")


def _require_least(rate: float, what: str) -> None:
    if rate < RATE.number(RATE.least):
        raise UserError(f"{what} is {rate:g} bit/s; it must be at least {RATE.least}")


def _rank(text: str, ranks: int | None, label: str) -> int:
    rank = spec.plain_number(text)
    if rank is None:
        raise UserError(f"{label} is '{text:.40}', not a rank")
    if ranks is not None and rank >= ranks:
        raise UserError(f"{label} is {rank}; it must be at most {ranks - 1}, the last rank")
    return rank


LINKS: dict[str, type[Links]] = {"none": NoLinks, "all": All, "fixed": Fixed, "pairs": Pairs, "shared": Shared}


def parse(text: str) -> Links:
    """The links that a SPEC means. Raises UserError for a bad one; no file is opened.

    >>> parse("fixed:rank=0+3,rate=100mbit")
    Fixed(rank=(0, 3), rate='100mbit', factor=None, others=None, delay=None)
    """
    links = spec.parse(text, LINKS, "--links")
    links.check()
    return links


def canonical(text: str) -> str:
    """The SPEC with each quantity in its largest unit.

    >>> canonical("all:rate=1000mbit")
    'all:rate=1gbit'
    """
    return spec.render(parse(text), LINKS)


def check_ranks(links: Links, ranks: int, simulated: bool = False) -> None:
    """Raise UserError if links name a rank beyond those there are, in a file perhaps, or there are more than have an
    address, which simulated ones need not."""
    if isinstance(links, NoLinks):
        return
    if ranks > MOST_RANKS and not simulated:
        raise UserError(f"--links: {ranks} ranks; at most {MOST_RANKS} have an address")
    links.check_ranks(ranks)
