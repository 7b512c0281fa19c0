"""EAMSGD in one process, given the order of the exchanges at the server and each worker's number of steps."""

import numpy as np

from reference import Batches, start, step_size


def replay(shares, cfg, order, steps):
    """The centre and the workers' models, shape (n, dim), after exchanges of the workers in `order`."""
    X, batches = start(shares), Batches(shares, cfg)
    centre, V, alpha = X[0].copy(), np.zeros_like(X), cfg.elasticity / len(shares)
    done = [0] * len(shares)

    def train(i, until):
        for k in range(done[i], until):  # of one worker alone the k of all
            gamma = step_size(shares, cfg, k, sum(steps))
            V[i] = cfg.momentum * V[i] - gamma * batches.gradient(i, X[i] + cfg.momentum * V[i])
            X[i] = X[i] + V[i]
        done[i] = until

    seen = [0] * len(shares)
    for i in order:
        train(i, seen[i] * cfg.period)
        e = alpha * (X[i] - centre)
        X[i], centre = X[i] - e, centre + e
        seen[i] += 1
    for i, until in enumerate(steps):
        train(i, until)
    return centre, X
