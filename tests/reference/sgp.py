"""X <- P (X - gamma G(Z)), w <- P w, Z = X / w."""

from itertools import cycle

import numpy as np

from reference import Batches, keys, mixing_matrices, start, step_size


def push_matrices(text, n):
    """Equal parts to oneself and along every edge, or the numbers of a file; lazy: half of them."""
    if text.startswith("file:"):
        matrices = [np.loadtxt(keys(text)["path"])]
    else:
        sends = [(W != 0) | np.eye(n, dtype=bool) for W in mixing_matrices(text, n)]
        matrices = [edges / edges.sum(axis=0) for edges in sends]
    return [(P + np.eye(n)) / 2 for P in matrices] if keys(text).get("lazy") == "1" else matrices


def run(shares, cfg, steps):
    Z, batches = start(shares), Batches(shares, cfg)
    X, w = Z.copy(), np.ones(len(Z))
    for k, P in zip(range(steps), cycle(push_matrices(cfg.topology, len(shares))), strict=False):
        X = P @ (X - step_size(shares, cfg, k, steps) * batches.gradients(Z))
        w = P @ w
        Z = X / w[:, None]
    return Z
