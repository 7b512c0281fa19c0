"""x <- x - gamma mean(G), or what another local rule makes of mean(G)."""

import numpy as np

from reference import Batches, start, step_size
from reference.local_rules import LocalRule, default_step_size


def run(shares, cfg, steps):
    X, batches = start(shares), Batches(shares, cfg)
    x, rule = X[0], LocalRule(cfg)
    for k in range(steps):
        g = batches.gradients(np.tile(x, (len(shares), 1))).mean(axis=0)
        x = rule.step(x, g, step_size(shares, cfg, k, steps, default_step_size(cfg)))
    return np.tile(x, (len(shares), 1))
