"""The batches of one worker, which a program draws for its gradients."""

from typing import Any, Literal

import numpy as np

from outpace.comm.streams import BATCHES

Sampling = Literal["replacement", "shuffle"]


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
        self._order = np.arange(n_samples if self._shuffles else 0)
        self._used = np.array([n_samples])  # of the order
        self.memory: dict[str, Any] = {"rng": self._rng, "order": self._order, "used": self._used}

    def draw(self, size: int) -> np.ndarray:
        """The next batch, shape (size,)."""
        if not self._shuffles:
            return self._rng.integers(self._n_samples, size=size)
        batch, filled = np.empty(size, dtype=np.int64), 0
        while filled < size:
            if self._used[0] == self._n_samples:
                self._rng.shuffle(self._order)
                self._used[0] = 0
            some = self._order[self._used[0] :][: size - filled]
            batch[filled : filled + len(some)] = some
            self._used += len(some)
            filled += len(some)
        return batch
