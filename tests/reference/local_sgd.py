"""H local steps of every worker, then an outer step by the mean of how far they have come; late by a round or not."""

import numpy as np

from reference import Batches, start, step_size
from reference.local_rules import LocalRule, default_step_size


def work(cfg, n_total, n, steps):
    """The averages, and the samples of all gradients."""
    return steps // cfg.period, steps * n * cfg.batch_size


def run(shares, cfg, steps):
    X, batches, n = start(shares), Batches(shares, cfg), len(shares)
    rules = [LocalRule(cfg) for _ in shares]
    begun, last, momentum = X.copy(), np.zeros_like(X), np.zeros_like(X)
    mu = (0.3 if cfg.overlap else 0.9) if cfg.outer_momentum is None else cfg.outer_momentum
    own = default_step_size(cfg)
    if own and cfg.outer == "nesterov":
        own *= (1 - mu) / cfg.outer_step_size
    for k in range(steps):
        gamma = step_size(shares, cfg, k, steps, own)
        X = np.stack([rule.step(x, g, gamma) for rule, x, g in zip(rules, X, batches.gradients(X), strict=True)])
        if (k + 1) % cfg.period:
            continue
        moved = begun - X
        known = np.tile(moved, (n, 1, 1))  # known[i, j]: how far j has come, as worker i knows it
        if cfg.overlap:
            known = np.tile(last, (n, 1, 1))
            known[range(n), range(n)] = moved
            last = moved
        gradient = known.mean(axis=1)
        if cfg.outer == "nesterov":
            momentum = mu * momentum + gradient
            gradient = cfg.outer_step_size * (gradient + mu * momentum)
        X = begun = begun - gradient
    return X
