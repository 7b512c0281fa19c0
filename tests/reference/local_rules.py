"""Momentum, Adam and AdamW as the textbooks have them, out of place."""

import numpy as np


class LocalRule:
    """One worker's rule and its moments."""

    def __init__(self, cfg):
        self.cfg, self.m, self.v, self.t = cfg, 0.0, 0.0, 0

    def step(self, x, g, gamma):
        """The model after a step from x with the gradient g."""
        cfg = self.cfg
        self.t += 1
        if cfg.rule == "adamw":
            decayed = x - gamma * cfg.weight_decay * x
        else:
            decayed, g = x, g + cfg.weight_decay * x
        if cfg.rule == "sgd":
            return x - gamma * g
        if cfg.rule == "momentum":
            self.m = cfg.beta1 * self.m + g
            return x - gamma * self.m
        self.m = cfg.beta1 * self.m + (1 - cfg.beta1) * g
        self.v = cfg.beta2 * self.v + (1 - cfg.beta2) * g**2
        m_hat, v_hat = self.m / (1 - cfg.beta1**self.t), self.v / (1 - cfg.beta2**self.t)
        return decayed - gamma * m_hat / (np.sqrt(v_hat) + 1e-8)


def default_step_size(cfg):
    """In place of cfg.step_size where that is None; else None."""
    if cfg.step_size is not None:
        return None
    return 0.05 if cfg.rule.startswith("adam") else 0.2
