"""What a SPEC of `--links` means to a simulated network: payload bytes per second of ranks and pairs, and when they
change."""

from outpace.benchmarks.machine import links as specs
from outpace.benchmarks.machine.link_changes import changes
from outpace.benchmarks.machine.links import GOODPUT, Links, Shared
from outpace.comm.errors import UserError
from outpace.comm.machines import Machine
from outpace.comm.network import Limits


def on(machine: Machine, text: str, ranks: int, seed: int) -> Limits:
    """Those of the SPEC `text` on this machine. One that was measured behind links has them in its numbers already:
    raises UserError for others."""
    if machine.links == "none":
        return limits(specs.parse(text), ranks, seed)
    if specs.canonical(text) != machine.links:
        raise UserError(
            f"--links is {text}; the machine {machine.name} was measured behind {machine.links}, and no other"
        )
    return Limits()


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
