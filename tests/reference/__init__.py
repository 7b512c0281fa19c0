"""The programs' second source: each algorithm in matrix form, all workers in one process.

Row i of X is worker i's model. The batches come from the same streams as the programs', nothing else is shared.
"""

import numpy as np

from outpace.comm.streams import BATCHES


def start(shares):
    return np.stack([share.x0() for share in shares])


class Batches:
    """The workers' stochastic gradients, each with its next batch."""

    def __init__(self, shares, cfg):
        self.shares, self.cfg = shares, cfg
        self.rngs = [np.random.default_rng([BATCHES, cfg.seed, rank]) for rank in range(len(shares))]

    def gradients(self, X):
        """G, whose row i is worker i's gradient at X[i]."""
        return np.stack([self.gradient(i, x) for i, x in enumerate(X)])

    def gradient(self, i, x):
        """Worker i's gradient at x."""
        g, share = np.empty_like(x), self.shares[i]
        share.gradient(x, self.rngs[i].integers(share.n_samples, size=self.cfg.batch_size), g)
        return g
