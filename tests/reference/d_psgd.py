"""X <- W X - gamma G(X), or X <- W (X - gamma G(X)), with the W of each step."""

from itertools import cycle

from reference import Batches, mixing_matrices, start, step_size


def run(shares, cfg, steps):
    X, batches = start(shares), Batches(shares, cfg)
    for k, W in zip(range(steps), cycle(mixing_matrices(cfg.topology, len(shares))), strict=False):
        move = step_size(shares, cfg, k, steps) * batches.gradients(X)
        X = W @ X - move if cfg.order == "consensus" else W @ (X - move)
    return X
