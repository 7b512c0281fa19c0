"""X <- W (2 X - X_before - step G + step_before G_before), at the start X <- W (X - step G)."""

from outpace.comm import topology
from reference import Batches, start


def run(shares, cfg, steps):
    W = topology.mixing_matrix(cfg.topology, len(shares))
    X, batches = start(shares), Batches(shares, cfg)
    before = moved = None  # X and step G of the step before
    for t in range(1, steps + 1):
        step_size = cfg.step_size / t**0.5 if cfg.schedule == "sqrt" else cfg.step_size
        move = step_size * batches.gradients(X)
        H = X - move if before is None else 2 * X - before - move + moved
        before, moved = X, move
        X = W @ H
    return X
