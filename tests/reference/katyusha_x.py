"""Katyusha X in the paper's three-term form, in the coupling form of its proof, and stage by stage in an application.

sigma and tau are worked out here from the paper, not asked of the program.
"""

import numpy as np

from reference import start
from reference.svrg import Epochs, work

__all__ = ["coupled", "proximal_points", "run", "work"]


def tau_of(epoch, mu):
    """min{1/2, 1/2 sqrt(m eta sigma)} for f + psi, whose f is mu-strongly convex."""
    name, _, weight = epoch.cfg.prox.partition(":weight=")
    sigma = epoch.cfg.sigma or mu + (float(weight) if name == "l2" else 0)
    return min(0.5, np.sqrt(epoch.m * epoch.eta * sigma) / 2)


def stage(epoch, y, mu, cfg, steps):
    """y_steps from x_0 = y_0 = y_{-1} = y."""
    x = y_previous = y
    tau = tau_of(epoch, mu) if cfg.variant == "s" else None
    for k in range(steps):
        if cfg.variant == "s":
            x = (1.5 * y + 0.5 * x - (1 - tau) * y_previous) / (1 + tau)
        else:
            x = ((3 * k + 1) * y + (k + 1) * x - (2 * k - 2) * y_previous) / (2 * k + 4)
        y_previous, y = y, epoch(x)
    return y


def run(shares, cfg, steps):
    y = stage(Epochs(shares, cfg), start(shares)[0], getattr(shares[0], "mu", None), cfg, steps)
    return np.tile(y, (len(shares), 1))


def coupled(shares, cfg, steps):
    """x = tau z + (1 - tau) y, with z the point of the proof; y after each step, shape (steps, dim)."""
    epoch, y = Epochs(shares, cfg), start(shares)[0]
    z, ys, m_eta = y, [], epoch.m * epoch.eta
    for k in range(steps):
        tau = tau_of(epoch, shares[0].mu) if cfg.variant == "s" else 2 / (k + 2)
        x = tau * z + (1 - tau) * y
        y = epoch(x)
        G = (x - y) / m_eta
        alpha = m_eta / (2 * tau)
        z = (z - alpha * G + tau * y) / (1 + tau) if cfg.variant == "s" else z - alpha * G
        ys.append(y)
    return np.array(ys)


class Proximal:
    """One worker's part of f(x) + sigma |x - centre|^2."""

    def __init__(self, share, sigma, centre):
        self.share, self.sigma, self.centre = share, sigma, centre
        self.n_samples, self.L, self.mu = share.n_samples, share.L + 2 * sigma, share.mu + 2 * sigma

    def gradient(self, x, batch, out):
        self.share.gradient(x, batch, out)
        out += 2 * self.sigma * (x - self.centre)


def proximal_points(shares, cfg, stages):
    """Every stage is a run of its own, from the last one's end; only the random streams go on."""
    y = start(shares)[0]
    epoch = Epochs(shares, cfg)
    for _ in range(stages):
        epoch.shares = [Proximal(share, cfg.regularisation, y) for share in shares]
        y = stage(epoch, y, epoch.shares[0].mu, cfg, cfg.stage)
    return y
