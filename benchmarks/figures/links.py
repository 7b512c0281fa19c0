"""Links in words and numbers, by the SPEC in a trace: for titles and labels, and for an axis of rates.

No file that a SPEC names is opened, so that a trace is drawn wherever it lies.
"""

import math
import re
from pathlib import Path
from typing import Final

from outpace.benchmarks.machine.links import All, Fixed, NoLinks, Pairs, Shared, parse
from outpace.comm.errors import UserError

UNITS: Final = {"kbit": "kbit/s", "mbit": "Mbit/s", "gbit": "Gbit/s"}


def in_words(text: str) -> str:
    """The SPEC for people; one of a later version as it stands.

    >>> in_words("fixed:rank=0+3,rate=100mbit,others=1gbit")
    'links of ranks 0, 3: 100 Mbit/s, others: 1 Gbit/s'
    """
    try:
        links = parse(text)
    except UserError:
        return text
    words = "no links"
    if isinstance(links, All):
        words = f"links of {_rate(links.rate)}"
    elif isinstance(links, Fixed):
        many = "s" * (len(links.rank) > 1)
        words = f"link{many} of rank{many} {', '.join(map(str, links.rank))}"
        if links.rate:
            words += f": {_rate(links.rate)}" + (f", others: {_rate(links.others)}" if links.others else "")
        elif links.others:
            words += f" {links.factor:g}× slower than {_rate(links.others)}"
    elif isinstance(links, Pairs):
        words = f"links by {Path(links.file).name}" + (f", others: {_rate(links.default)}" if links.default else "")
    elif isinstance(links, Shared):
        slow_s = f"{links.fraction * links.period:g} of {links.period:g} s"
        words = f"shared links of {_rate(links.rate)}: {100 * links.share:g} % of it for {slow_s}"
    return words + (f", delay {re.sub('(?=[a-z])', ' ', links.delay, count=1)}" if links.delay else "")


def slowest(text: str) -> float:
    """The slowest rate in bits per second; infinite without links, 0 where the SPEC alone does not say it."""
    try:
        links = parse(text)
    except UserError:
        return 0.0
    if isinstance(links, NoLinks):
        return math.inf
    if isinstance(links, Fixed):
        rates = [links.of_rank(rank) for rank in (links.rank[0], 1 + max(links.rank))]
        return min(math.inf if rate is None else rate for rate in rates)
    share = links.share if isinstance(links, Shared) else 1.0
    return share * (links.of_rank(0) or 0.0)


def short(bits_per_s: float) -> str:
    """The rate for an axis in bit/s.

    >>> short(2.5e9), short(2e7)
    ('2.5G', '20M')
    """
    prefixes = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (0.0, ""))
    size, prefix = next(each for each in prefixes if bits_per_s >= each[0])
    return f"{bits_per_s / (size or 1):g}{prefix}"


def _rate(rate: str) -> str:
    return f"{rate[:-4]} {UNITS[rate[-4:]]}"
