"""Votes of n workers, one bit per coordinate each: every worker casts a ballot, and all learn what was decided.

Who may abstain casts two ballots, which agree where it has a sign, and of which one says plus and one minus where it
has none.

Three exchanges with the same result. What a rank sends for a majority, in bytes, with W = ceil(dim / 32) words of 4
bytes, w = ceil(dim / (32 n)) of them in each of n equal chunks, b ballots of a worker, and p planes of the outcome (1,
or 2 to tell ties):

    sharded  every rank counts the votes on one chunk: Alltoall, then Allgather
             4 w b (n-1) up + 4 w p (n-1) down: for b = p = 1 and dim a multiple of 32 n, 2(n-1)/n bits per coordinate
    server   rank 0, itself a voter, counts them all: Gather, then Bcast, charged as a chain of ranks
             4 W b up, but rank 0; 4 W p down, but rank n-1. Rank 0 takes in 4 W b (n-1)
    int8     nobody counts: Allreduce of +1 and -1, or of their sums of b, for n b <= 127
             2(n-1)/n 32 W, which is 16(n-1)/n bits per coordinate, whatever b and p are

Where the sum is wanted instead of its sign, it comes down as one int8 per coordinate: 32 w (n-1) bytes in place of
4 w p (n-1), or 32 W in place of 4 W p. The bits that fill up the last words are sent, and never applied.
"""

from types import ModuleType
from typing import Any, Final

import numpy as np
from mpi4py import MPI

from outpace.comm import sign
from outpace.comm.arrays import Wired
from outpace.comm.errors import UserError
from outpace.comm.meter import of_allreduce

ALL: Final = 0xFFFFFFFF
MOST_INT8: Final = 127  # ballots whose sum fits a byte


class Counted:
    """An exchange in which the owners of chunks of the coordinates count the ballots.

    A ballot is `owners` chunks of `words` words; what a rank casts is `each` ballots, shape (owners, each, words). This
    rank owns chunk `mine` if it `counts`.
    """

    def __init__(
        self, comm: MPI.Intracomm, dim: int, xp: ModuleType, each: int, owners: int, mine: int, counts: bool
    ) -> None:
        self.comm, self.owners, self.mine, self.counts = comm, owners, mine, counts
        self.words = sign.words(dim, owners)
        self._kernels = sign.kernels(xp)
        self._ballots = Wired((comm.size * each if counts else 0, self.words), np.uint32, xp, comm)

    def up(self, mine: Wired, everyones: Wired) -> Any:
        """Part c of `mine`, in `owners` equal parts, goes to owner c, whose rows of `everyones` are all n ranks'."""
        raise NotImplementedError

    def down(self, whole: Wired) -> Any:
        """Row `mine` of `whole`, shape (owners, ...), goes from its owner to everybody."""
        raise NotImplementedError

    def sent(self, up: int, down: int) -> int:
        """Bytes that this rank sends for arrays of `up` and of `down` bytes."""
        raise NotImplementedError

    def chunk(self, v: Any, size: int) -> Any:
        """This rank's of the chunks of `size` entries of v; what v has of it."""
        return v[self.mine * size : (self.mine + 1) * size]

    def majority(self, ballot: Wired, coins: Any, outcome: Wired) -> None:
        """outcome, shape (owners, planes, words), <- the majority of all ranks' ballots, as by `sign.tally`."""
        ballots = self.up(ballot, self._ballots)
        if self.counts:
            self._kernels.tally(ballots, self.chunk(coins, self.words), outcome.array[self.mine])
        self.down(outcome)

    def sum(self, ballot: Wired, sums: Wired) -> None:
        """sums, int8, shape (owners, 32 words), <- the sum of all ranks' signs; n <= 127."""
        ballots = self.up(ballot, self._ballots)
        if self.counts:
            self._kernels.count(ballots, sums.array[self.mine])
        self.down(sums)

    def mean(self, ballot: Wired, scale: Wired, scales: Wired, v: Any) -> None:
        """v, this rank's chunk of a vector, <- the mean of scale x sign over all ranks.

        Every entry of `scale`, shape (owners,), is this rank's; `scales`, shape (n,), takes in all ranks'.
        """
        self.up(scale, scales)
        ballots = self.up(ballot, self._ballots)
        if self.counts:
            self._kernels.mean(ballots, scales.array, v)


class Sharded(Counted):
    """Every rank counts the votes on the chunk of its number."""

    def __init__(self, comm: MPI.Intracomm, dim: int, xp: ModuleType, each: int = 1) -> None:
        super().__init__(comm, dim, xp, each, owners=comm.size, mine=comm.rank, counts=True)

    def up(self, mine: Wired, everyones: Wired) -> Any:
        self.comm.Alltoall(mine.to_wire(), everyones.wire)
        return everyones.from_wire()

    def down(self, whole: Wired) -> Any:
        whole.to_wire(self.mine)
        self.comm.Allgather(MPI.IN_PLACE, whole.wire)
        return whole.from_wire()

    def sent(self, up: int, down: int) -> int:
        n = self.comm.size
        return (n - 1) * (up + down) // n


class Server(Counted):
    """Rank 0 counts all the votes."""

    def __init__(self, comm: MPI.Intracomm, dim: int, xp: ModuleType, each: int = 1) -> None:
        super().__init__(comm, dim, xp, each, owners=1, mine=0, counts=comm.rank == 0)

    def up(self, mine: Wired, everyones: Wired) -> Any:
        self.comm.Gather(mine.to_wire(), everyones.wire, 0)
        return everyones.from_wire()

    def down(self, whole: Wired) -> Any:
        if self.counts:
            whole.to_wire()
        self.comm.Bcast(whole.wire, 0)
        return whole.from_wire()

    def sent(self, up: int, down: int) -> int:
        first, last = self.comm.rank == 0, self.comm.rank == self.comm.size - 1
        return up * (not first) + down * (not last)


class Int8:
    """All ranks add up all the votes, a byte each; n `each` <= 127. A ballot is one chunk of `words` words."""

    owners = 1

    def __init__(self, comm: MPI.Intracomm, dim: int, xp: ModuleType, each: int = 1) -> None:
        self.comm = comm
        self.words = sign.words(dim)
        self._kernels = sign.kernels(xp)
        self._sums = Wired((1, sign.BITS * self.words), np.int8, xp, comm)

    def sent(self, up: int, down: int) -> int:
        return of_allreduce(self._sums.nbytes, self.comm.rank, self.comm.size)

    def majority(self, ballot: Wired, coins: Any, outcome: Wired) -> None:
        self.sum(ballot, self._sums)
        self._kernels.decide(self._sums.array[0], coins, outcome.array[0])

    def sum(self, ballot: Wired, sums: Wired) -> None:
        self._kernels.count(ballot.array.reshape(-1, self.words), sums.array[0])
        self.comm.Allreduce(MPI.IN_PLACE, sums.to_wire())
        sums.from_wire()


def check_sums_fit(n: int, each: int, flag: str) -> None:
    """Raise UserError where a sum of n workers' ballots, `each` of every one, does not fit a byte."""
    if n * each > MOST_INT8:
        raise UserError(f"{flag}: {n} workers; it sums signs in bytes and takes at most {MOST_INT8 // each}")


def ballots_each(ties: str) -> int:
    """How many ballots a worker casts."""
    return 2 if ties == "abstain" else 1


EXCHANGES: Final[dict[str, type[Any]]] = {"sharded": Sharded, "server": Server, "int8": Int8}


class Coins:
    """What a zero of this rank of n becomes in a step, `zeros`, and what a tied vote becomes, `ties`: a bit per
    coordinate each.

    `random`: fair signs. Workers 2i and 2i + 1 draw opposite signs for zeros, so two zeros of a pair cancel. Different
    pairs, and ties, are independent, so no other votes cancel by rule. The last of an odd n has no partner: its zero is
    a vote for either side. Ties are the same on every rank. `keys`, a stream that all ranks share, gives each step a
    key for the ties and one for each pair. `keep`: the same for a zero, which has to say something with its one bit,
    but a tied vote is no move. `plus`: +1 for both, as in the code behind arXiv:1810.05291. `abstain`: a zero is plus
    on one ballot of its worker and minus on the other, and a tied vote is no move. `turns` says for each ballot whether
    `zeros` is turned over.
    """

    def __init__(self, ties: str, keys: np.random.Generator, rank: int, n: int, words: int, xp: ModuleType) -> None:
        self.zeros, self.ties = (xp.full(words, ALL, dtype=np.uint32) for _ in range(2))
        fair = ties in ("random", "keep")
        self.turns = (0, ALL)[: ballots_each(ties)] if not fair else (ALL * (rank % 2),)
        self._toss = sign.kernels(xp).toss
        self._keys = keys if fair else None
        self._pair, self._pairs = rank // 2, (n + 1) // 2

    def toss(self) -> None:
        """Take the bits of the next step."""
        if self._keys:
            keys = self._keys.integers(ALL, endpoint=True, size=1 + self._pairs)
            self._toss(int(keys[0]), self.ties)
            self._toss(int(keys[1 + self._pair]), self.zeros)
