"""x <- x - gamma mean(G), or the textbook form of momentum and Adam, written out of place."""

import numpy as np

from reference import Batches, start


def run(shares, cfg, steps):
    X, batches = start(shares), Batches(shares, cfg)
    x, m, v = X[0], 0.0, 0.0
    for t in range(1, steps + 1):
        g = batches.gradients(np.tile(x, (len(shares), 1))).mean(axis=0)
        if cfg.rule == "momentum":
            m = cfg.beta1 * m + g
            x = x - cfg.step_size * m
        elif cfg.rule == "adam":
            m = cfg.beta1 * m + (1 - cfg.beta1) * g
            v = cfg.beta2 * v + (1 - cfg.beta2) * g**2
            m_hat, v_hat = m / (1 - cfg.beta1**t), v / (1 - cfg.beta2**t)
            x = x - cfg.step_size * m_hat / (np.sqrt(v_hat) + 1e-8)
        else:
            x = x - cfg.step_size * g
    return np.tile(x, (len(shares), 1))
