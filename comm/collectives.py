"""What collectives cost by the algorithms of MPICH: rounds, and bytes that pass one after the other, in closed form.

A collective of r rounds and B bytes takes r latency + B gap, with the gap in seconds per byte. Sources: Thakur,
Rabenseifner and Gropp, Optimization of collective communication operations in MPICH, 2005; MPICH's own limits between
short and long messages (its variables MPIR_CVAR_*_SHORT_MSG_SIZE); for the ring Patarasuk and Yuan, Bandwidth optimal
all-reduce algorithms for clusters of workstations, 2009. With p the largest power of two in n:

    barrier    dissemination                              log2 n rounds, rounded up, of no bytes
    bcast      short, or few ranks: binomial tree         log2 n rounds, rounded down, of log2 n B, rounded up
               long: scatter and allgather                log2 n + log2 n (n = p, medium) or n - 1 rounds, 2 (n-1)/n B
    gather     binomial tree                              log2 n rounds, (n-1) B
    allgather  n = p, not long: recursive doubling        log2 n rounds, (n-1) B
               short: Bruck's                             log2 n rounds, (n-1) B
               long: ring                                 n - 1 rounds, (n-1) B
    allreduce  short: recursive doubling                  log2 p rounds of B
               long: halving and doubling (Rabenseifner)  2 log2 p rounds, 2 (p-1)/p B
               either for n > p                           2 rounds more of B
               ring, where the machine says so            2 (n-1) rounds, 2 (n-1)/n B
    alltoall   short, many ranks: Bruck's                 log2 n rounds of n/2 B, or what there is to send
               medium: all at once                        1 round, (n-1) B
               long: pairwise                             n - 1 rounds, (n-1) B

Where n is no power of two these are bounds from above for gather and a short allreduce: some ranks are a round ahead.
B is the vector of bcast and allreduce, and elsewhere the block of one rank (alltoall: for one other rank).
"""

from typing import Final, Literal, NamedTuple, get_args

Kind = Literal["barrier", "bcast", "gather", "allgather", "allreduce", "alltoall"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
Algorithm = Literal["halving", "ring"]

BCAST_FEW: Final = 8  # ranks
BCAST_SHORT: Final = 12_288  # bytes, as all that follow
ALLREDUCE_SHORT: Final = 2_048
ALLGATHER_SHORT: Final = 81_920  # in all
ALLGATHER_LONG: Final = 524_288  # in all
BCAST_LONG: Final = 524_288
ALLTOALL_SHORT: Final = 256
ALLTOALL_MEDIUM: Final = 32_768


class Cost(NamedTuple):
    """On the longest path: rounds, one after the other, and the bytes of all of them."""

    rounds: int
    nbytes: float


def cost(kind: Kind, n: int, nbytes: float, allreduce: Algorithm = "halving") -> Cost:
    """Of n ranks; `allreduce` is the algorithm of long vectors.

    >>> cost("allreduce", 8, 8_000_000), cost("allreduce", 1024, 1e6, "ring").rounds
    (Cost(rounds=6, nbytes=14000000.0), 2046)
    """
    if n == 1:
        return Cost(0, 0.0)
    log = (n - 1).bit_length()
    match kind:
        case "barrier":
            return Cost(log, 0.0)
        case "bcast":
            return _bcast(n, nbytes, log)
        case "gather":
            return Cost(log, (n - 1) * nbytes)
        case "allgather":
            short = n * nbytes < (ALLGATHER_LONG if is_power(n) else ALLGATHER_SHORT)
            return Cost(log if short else n - 1, (n - 1) * nbytes)
        case "allreduce":
            return _allreduce(n, nbytes, allreduce)
        case "alltoall":
            if nbytes <= ALLTOALL_SHORT and n >= BCAST_FEW:
                return Cost(log, bruck_blocks(n) * nbytes)
            return Cost(1 if nbytes <= ALLTOALL_MEDIUM else n - 1, (n - 1) * nbytes)


def is_power(n: int) -> bool:
    """Of two."""
    return n & (n - 1) == 0


def bruck_blocks(n: int) -> int:
    """Blocks that a rank sends in all rounds of Bruck's alltoall: in round r those whose number has bit r set."""
    return sum(number.bit_count() for number in range(n))


def _bcast(n: int, nbytes: float, log: int) -> Cost:
    if nbytes < BCAST_SHORT or n < BCAST_FEW:
        return Cost(n.bit_length() - 1, log * nbytes)
    medium = is_power(n) and nbytes < BCAST_LONG
    return Cost(log + (log if medium else n - 1), 2 * (n - 1) / n * nbytes)


def _allreduce(n: int, nbytes: float, algorithm: Algorithm) -> Cost:
    if nbytes <= ALLREDUCE_SHORT:
        doublings = n.bit_length() - 1
        cost = Cost(doublings, doublings * nbytes)
    elif algorithm == "ring":
        return Cost(2 * (n - 1), 2 * (n - 1) / n * nbytes)
    else:
        p = 1 << (n.bit_length() - 1)
        cost = Cost(2 * (n.bit_length() - 1), 2 * (p - 1) / p * nbytes)
    return cost if is_power(n) else Cost(cost.rounds + 2, cost.nbytes + 2 * nbytes)
