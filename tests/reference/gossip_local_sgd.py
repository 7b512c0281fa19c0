"""H local steps of every worker, then the mean of a random pair, or NoLoCo's step in the paper's form."""

import numpy as np

from outpace.comm.streams import PAIRS
from reference import Batches, start, step_size
from reference.local_rules import LocalRule, default_step_size


def work(cfg, n_total, n, steps):
    """The averages, and the samples of all gradients."""
    return steps // cfg.period, steps * n * cfg.batch_size


def matrix(n, rng):
    """The averaging matrix of a round: neighbours in a random order are a pair, and the last may be left over."""
    order = rng.permutation(n)
    W = np.eye(n)
    for i, j in zip(order[0::2], order[1::2], strict=False):
        W[[i, i, j, j], [i, j, i, j]] = 0.5
    return W


def exchanges(n, rounds, seed=0):
    """In how many of the rounds each worker has a partner, shape (n,)."""
    rng = np.random.default_rng([PAIRS, seed])
    return sum((np.diag(matrix(n, rng)) < 1).astype(int) for _ in range(rounds))


def run(shares, cfg, steps):
    X, batches = start(shares), Batches(shares, cfg)
    rules = [LocalRule(cfg) for _ in shares]
    rng = np.random.default_rng([PAIRS, cfg.seed])
    phi, delta, own = X.copy(), np.zeros_like(X), default_step_size(cfg)
    alpha, beta = cfg.outer_momentum, cfg.outer_step_size
    gamma = beta if cfg.outer_pull is None else cfg.outer_pull
    if own and cfg.outer == "nesterov":
        own *= (1 - alpha) / beta
    for k in range(steps):
        size = step_size(shares, cfg, k, steps, own)
        X = np.stack([rule.step(x, g, size) for rule, x, g in zip(rules, X, batches.gradients(X), strict=True)])
        if (k + 1) % cfg.period == 0:
            W = matrix(len(shares), rng)
            if cfg.outer == "none":
                X = W @ X
            else:
                delta = alpha * delta + beta * W @ (X - phi) - gamma * (phi - W @ phi)
                X = phi = phi + delta
    return X
