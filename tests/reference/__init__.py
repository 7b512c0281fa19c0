"""The programs' second source: each algorithm in matrix form, all workers in one process.

Row i of X is worker i's model. The batches come from the same streams as the programs', nothing else is shared.
"""

import numpy as np

from outpace.comm.streams import BATCHES


def start(shares):
    return np.stack([share.x0() for share in shares])


class Batches:
    """G = gradients(X): row i is worker i's stochastic gradient at X[i], with its next batch."""

    def __init__(self, shares, cfg):
        self.shares, self.cfg = shares, cfg
        self.rngs = [np.random.default_rng([BATCHES, cfg.seed, rank]) for rank in range(len(shares))]

    def gradients(self, X):
        G = np.empty_like(X)
        for share, rng, x, g in zip(self.shares, self.rngs, X, G, strict=True):
            share.gradient(x, rng.integers(share.n_samples, size=self.cfg.batch_size), g)
        return G
