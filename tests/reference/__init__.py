"""The programs' second source: each algorithm in matrix form, all workers in one process.

Row i of X is worker i's model. The batches come from the same streams as the programs', and a topology's edges from
where W is not zero, which tests of their own hold; nothing else is shared.
"""

import numpy as np

from outpace.comm import topology
from outpace.comm.streams import BATCHES


def start(shares):
    return np.stack([share.x0() for share in shares])


def keys(text):
    """The keys and values of a SPEC, as texts."""
    return dict(pair.split("=") for pair in text.partition(":")[2].split(",") if pair)


def step_size(shares, cfg, k, steps, own=None):
    """gamma in step k of `steps`, by cfg.schedule and cfg.step_size, or `own` in its place."""
    name, values = cfg.schedule.partition(":")[0], keys(cfg.schedule)
    gamma = cfg.step_size if own is None else own
    if name == "sqrt":
        gamma /= np.sqrt(k + 1)
    elif name == "cosine":
        gamma *= np.cos(np.pi * k / steps / 2) ** 2  # (1 + cos 2a) / 2
    if values:
        samples = cfg.batch_size * (1 if cfg.asynchronous else len(shares))  # of all workers in a step
        before, after = (i * samples / shares[0].n_total for i in (k, k + 1))  # epochs
        if name == "step":
            for at in values["at"].split("+"):
                gamma *= float(values.get("factor", 0.1)) if before >= float(at) else 1
        gamma *= min(1, after / float(values.get("warm-up", after)))
    return gamma


def mixing_matrix(text, n):
    """The numbers of a file, or Metropolis weights on the edges; lazy: half of them."""
    edges = (topology.mixing_matrix(text, n) != 0) & ~np.eye(n, dtype=bool)
    W = np.loadtxt(keys(text)["path"]) if text.startswith("file:") else metropolis(edges)
    return (W + np.eye(n)) / 2 if keys(text).get("lazy") == "1" else W


def mixing_matrices(text, n):
    """W of each step of a period: also those of the directed graphs, by hops of 1, 2, 4, ... below n."""
    hops = [np.roll(np.eye(n), 2**i, axis=0) for i in range(n) if 2**i < n]  # row i + hop hears column i
    if text.startswith("one-peer"):
        matrices = [(np.eye(n) + hop) / 2 for hop in hops] or [np.eye(n)]
    elif text.startswith("static-exponential"):
        matrices = [(np.eye(n) + sum(hops)) / (1 + len(hops))]
    else:
        return [mixing_matrix(text, n)]
    return [(W + np.eye(n)) / 2 for W in matrices] if keys(text).get("lazy") == "1" else matrices


def metropolis(edges):
    """1 / (1 + the larger degree) on an edge, and what is left to 1 for the worker itself."""
    W, degrees = np.zeros(edges.shape), edges.sum(axis=0)
    for i, j in np.argwhere(edges):
        W[i, j] = 1 / (1 + max(degrees[i], degrees[j]))
    for i in range(len(W)):
        W[i, i] = 1 - W[i].sum()
    return W


class Batches:
    """The workers' stochastic gradients, each with its next batch."""

    def __init__(self, shares, cfg):
        self.shares, self.cfg = shares, cfg
        self.rngs = [np.random.default_rng([BATCHES, cfg.seed, rank]) for rank in range(len(shares))]
        self.orders = [np.arange(share.n_samples) for share in shares]  # of the last pass
        self.ahead = [np.empty(0, dtype=int) for _ in shares]  # of it, what no batch has had

    def gradients(self, X, times=1):
        """G, whose row i is worker i's gradient at X[i], over so many times the batch size."""
        return np.stack([self.gradient(i, x, times) for i, x in enumerate(X)])

    def gradient(self, i, x, times=1):
        """Worker i's gradient at x."""
        g, share = np.empty_like(x), self.shares[i]
        share.gradient(x, self.batch(i, share.n_samples, times * self.cfg.batch_size), g)
        return g

    def batch(self, i, n_samples, size):
        if self.cfg.sampling == "replacement":
            return self.rngs[i].integers(n_samples, size=size)
        while len(self.ahead[i]) < size:
            self.rngs[i].shuffle(self.orders[i])
            self.ahead[i] = np.append(self.ahead[i], self.orders[i])
        batch, self.ahead[i] = np.split(self.ahead[i], [size])
        return batch
