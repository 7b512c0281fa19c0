"""X <- W (2 X - X_before - step G + step_before G_before), at the start X <- W (X - step G)."""

from reference import Batches, mixing_matrix, start, step_size


def run(shares, cfg, steps):
    W = mixing_matrix(cfg.topology, len(shares))
    X, batches = start(shares), Batches(shares, cfg)
    before = moved = None  # X and step G of the step before
    for k in range(steps):
        move = step_size(shares, cfg, k, steps) * batches.gradients(X)
        H = X - move if before is None else 2 * X - before - move + moved
        before, moved = X, move
        X = W @ H
    return X
