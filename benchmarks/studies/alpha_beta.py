"""What programs could reach behind given links, by the alpha-beta model: a message of B bytes takes alpha + B / rate.

The rate is that of the slower of two links, or what is left where one link carries several messages at once. Links
carry as much each way at the same time. Nothing else takes time but the gradient: no arithmetic, no copying, no core
that is shared. The model is B bytes, and n workers, a power of two, compute a gradient in `compute_s` each.

    AllReduce-SGD   compute, then an Allreduce. MPICH takes reduce-scatter and allgather by recursive halving and
                    doubling for long messages (Rabenseifner; its table of algorithms): 2 log2(n) messages of a worker,
                    2 (n-1)/n B in all each way, as much as in a ring. The slowest link holds all of them up.
    D-PSGD, ring    the exchange runs beside the gradient, and the longer of the two counts: B to each neighbour, all
                    through one link. In the long run all workers have the pace of the slowest link.
    D^2, ring       the gradient, then the same exchange.
    A-PSGD          a worker's gradient, B to the server and B back, through the slower of the two links; the server's
                    link carries one B each way for every gradient, which no number of workers can pass.
    AD-PSGD         gradients wait for nothing; what links carry decides on how many exchanges there are.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

ALPHA_S: Final = 2e-4  # a short message's way from process to process on one host, by TCP


def allreduce_sgd(rates: Sequence[float], nbytes: float, compute_s: float, alpha_s: float) -> float:
    n = len(rates)
    return n / (compute_s + 2 * math.log2(n) * alpha_s + 2 * (n - 1) / n * nbytes / min(rates))


def d_psgd(rates: Sequence[float], nbytes: float, compute_s: float, alpha_s: float) -> float:
    return len(rates) / max(compute_s, _of_neighbours(rates, nbytes, alpha_s))


def d2(rates: Sequence[float], nbytes: float, compute_s: float, alpha_s: float) -> float:
    return len(rates) / (compute_s + _of_neighbours(rates, nbytes, alpha_s))


def a_psgd(rates: Sequence[float], nbytes: float, compute_s: float, alpha_s: float) -> float:
    *workers, server = rates
    alone = sum(1 / (compute_s + 2 * (alpha_s + nbytes / min(rate, server))) for rate in workers)
    return min(alone, server / nbytes)


def ad_psgd(rates: Sequence[float], nbytes: float, compute_s: float, alpha_s: float) -> float:
    return len(rates) / compute_s


PROGRAMS: Final[dict[str, Callable[[Sequence[float], float, float, float], float]]] = {
    "ad_psgd": ad_psgd,
    "d_psgd": d_psgd,
    "allreduce_sgd": allreduce_sgd,
    "d2": d2,
    "a_psgd": a_psgd,
}


def gradients_per_s(
    program: str, rates: Sequence[float], nbytes: float, compute_s: float, alpha_s: float = ALPHA_S
) -> float:
    """Of all workers together, behind links of `rates` payload bytes per second, one for each rank, servers last."""
    return PROGRAMS[program](rates, nbytes, compute_s, alpha_s)


def _of_neighbours(rates: Sequence[float], nbytes: float, alpha_s: float) -> float:
    """Seconds of an exchange with all neighbours on a ring."""
    return alpha_s + min(2, len(rates) - 1) * nbytes / min(rates)
