"""X <- W X - gamma G(X)."""

from outpace.comm import topology
from reference import Batches, start


def run(shares, cfg, steps):
    W = topology.mixing_matrix(cfg.topology, len(shares))
    X, batches = start(shares), Batches(shares, cfg)
    for _ in range(steps):
        X = W @ X - cfg.step_size * batches.gradients(X)
    return X
