"""What a SPEC of `--links` means to a simulated network: payload bytes per second of ranks and pairs, and when they
change."""

from outpace.benchmarks.machine.link_changes import changes
from outpace.benchmarks.machine.links import GOODPUT, Links, Shared
from outpace.comm.network import Limits


def limits(links: Links, ranks: int, seed: int) -> Limits:
    """Of so many ranks. The same seed has the same changes as in a real run."""
    of_rank = {rank: GOODPUT * rate / 8 for rank in range(ranks) if (rate := links.of_rank(rank))}
    of_pair = {
        (rank, other): GOODPUT * rate / 8
        for rank in range(ranks)
        for other, rate in links.to_others(rank, ranks).items()
    }
    if isinstance(links, Shared):
        changing = {
            rank: ((at_s, GOODPUT * rate) for at_s, rate in changes(links, seed, rank)) for rank in range(ranks)
        }
        return Limits(of_rank, of_pair, changing, links.delay_s)
    return Limits(of_rank, of_pair, delay_s=links.delay_s)
