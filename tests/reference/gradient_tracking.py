"""Y <- W Y + G - G_before, X <- W X - gamma Y; at the start Y = G."""

from itertools import cycle

from reference import Batches, mixing_matrices, start, step_size


def run(shares, cfg, steps):
    X, batches = start(shares), Batches(shares, cfg)
    Y = before = None
    for k, W in zip(range(steps), cycle(mixing_matrices(cfg.topology, len(shares))), strict=False):
        G = batches.gradients(X)
        Y = G if Y is None else W @ Y + G - before
        X = W @ X - step_size(shares, cfg, k, steps) * Y
        before = G
    return X
