"""x <- x - gamma mean(G), or the textbook form of momentum and Adam, written out of place."""

import numpy as np

from reference import Batches, start, step_size


def run(shares, cfg, steps):
    X, batches = start(shares), Batches(shares, cfg)
    x, m, v = X[0], 0.0, 0.0
    default = 0.05 if cfg.rule == "adam" else 0.2
    for t in range(1, steps + 1):
        g = batches.gradients(np.tile(x, (len(shares), 1))).mean(axis=0) + cfg.weight_decay * x
        gamma = step_size(shares, cfg, t - 1, steps, default if cfg.step_size is None else None)
        if cfg.rule == "momentum":
            m = cfg.beta1 * m + g
            x = x - gamma * m
        elif cfg.rule == "adam":
            m = cfg.beta1 * m + (1 - cfg.beta1) * g
            v = cfg.beta2 * v + (1 - cfg.beta2) * g**2
            m_hat, v_hat = m / (1 - cfg.beta1**t), v / (1 - cfg.beta2**t)
            x = x - gamma * m_hat / (np.sqrt(v_hat) + 1e-8)
        else:
            x = x - gamma * g
    return np.tile(x, (len(shares), 1))
