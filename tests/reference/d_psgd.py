"""X <- W X - gamma G(X)."""

from reference import Batches, mixing_matrix, start, step_size


def run(shares, cfg, steps):
    W = mixing_matrix(cfg.topology, len(shares))
    X, batches = start(shares), Batches(shares, cfg)
    for k in range(steps):
        X = W @ X - step_size(shares, cfg, k, steps) * batches.gradients(X)
    return X
