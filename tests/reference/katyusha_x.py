"""Katyusha X in the paper's three-term form, and in the coupling form of its proof."""

import numpy as np

from reference import start
from reference.svrg import Epochs, work

__all__ = ["coupled", "run", "work"]


def run(shares, cfg, steps):
    epoch, x = Epochs(shares, cfg), start(shares)[0]
    constants = cfg.constants(shares[0])
    tau, eta = constants.tau, constants.step_size
    y = y_previous = x
    for k in range(steps):
        if cfg.variant == "s":
            x = (1.5 * y + 0.5 * x - (1 - tau) * y_previous) / (1 + tau)
        else:
            x = ((3 * k + 1) * y + (k + 1) * x - (2 * k - 2) * y_previous) / (2 * k + 4)
        y_previous, y = y, epoch(x, eta)
    return np.tile(y, (len(shares), 1))


def coupled(shares, cfg, steps):
    """x = tau z + (1 - tau) y, with z the point of the proof; y after each step, shape (steps, dim)."""
    epoch, y = Epochs(shares, cfg), start(shares)[0]
    constants, z, ys = cfg.constants(shares[0]), y, []
    m_eta = constants.m * constants.step_size
    for k in range(steps):
        tau = constants.tau if cfg.variant == "s" else 2 / (k + 2)
        x = tau * z + (1 - tau) * y
        y = epoch(x, constants.step_size)
        G = (x - y) / m_eta
        alpha = m_eta / (2 * tau)
        z = (z - alpha * G + tau * y) / (1 + tau) if cfg.variant == "s" else z - alpha * G
        ys.append(y)
    return np.array(ys)
