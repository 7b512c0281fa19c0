"""A-PSGD in one process, given the order in which the server applied the workers' gradients.

Worker i's gradient is taken at the model as it stood after its last one was applied, x0 the first time.
"""

import numpy as np

from reference import Batches, start, step_size


def replay(shares, cfg, order):
    """The model after the gradients of the workers in `order`, and the staleness of each."""
    X, batches = start(shares), Batches(shares, cfg)  # X[i] is what worker i computes at
    x, read_at, staleness = X[0].copy(), [0] * len(shares), []
    for k, i in enumerate(order):
        x = x - step_size(shares, cfg, k, len(order)) / len(shares) * batches.gradient(i, X[i])
        staleness.append(k - read_at[i])
        X[i], read_at[i] = x, k + 1
    return x, np.array(staleness)
