"""The batches of one worker, which a program draws for its gradients."""

from typing import Any, Final, Literal

import numpy as np

from outpace.comm.streams import BATCHES

Sampling = Literal["replacement", "shuffle"]

# Numbers that are drawn with replacement at once. A pass over long vectors leaves nothing of the generator's code in
# the cache, and a draw takes ten times as long then, 50 us.
AHEAD: Final = 1024


class Batches:
    """Numbers of a worker's own samples, a function of the seed and its rank alone.

    `replacement`: each number is drawn from all of them. `shuffle`: pass after pass over all of them, each in a new
    order; a batch may end one pass and begin the next. `memory` is what is remembered, by name, for `budget.keep`.

    >>> batches = Batches("shuffle", 4, seed=0, rank=0)
    >>> sorted(batches.draw(3).tolist() + batches.draw(1).tolist())
    [0, 1, 2, 3]
    """

    def __init__(self, sampling: Sampling, n_samples: int, seed: int, rank: int) -> None:
        self._rng = np.random.default_rng([BATCHES, seed, rank])
        self._n_samples = n_samples
        self._shuffles = sampling == "shuffle"
        self._order = np.arange(n_samples) if self._shuffles else np.zeros(AHEAD, np.int64)  # in which they come
        self._used = np.array([len(self._order)])  # of these
        self.memory: dict[str, Any] = {"rng": self._rng, "order": self._order, "used": self._used}

    def draw(self, size: int) -> np.ndarray:
        """The next batch, shape (size,)."""
        first = self._take(size)
        if len(first) == size:
            return first
        parts = [first]
        while missing := size - sum(map(len, parts)):
            self._renew()
            parts.append(self._take(missing))
        return np.concatenate(parts)

    def _take(self, most: int) -> np.ndarray:
        """The next numbers of the order, so many or what is left of it."""
        used = self._used.item()
        some = self._order[used : used + most].copy()
        self._used[0] = used + len(some)
        return some

    def _renew(self) -> None:
        """Another order, of which nothing is used."""
        if self._shuffles:
            self._rng.shuffle(self._order)
        else:
            self._order[:] = self._rng.integers(self._n_samples, size=AHEAD)
        self._used[0] = 0
