"""SVRG's epochs with all samples in one list, the papers' own order of operations and no Allreduce.

Step sizes, lengths and proximal steps are worked out here from the papers, not asked of the program.
"""

import itertools

import numpy as np

from outpace.comm.streams import EPOCHS, SHARED_BATCHES
from reference import start


class Epochs:
    def __init__(self, shares, cfg):
        self.shares, self.cfg = shares, cfg
        self.n, self.N = len(shares), sum(share.n_samples for share in shares)
        self.owner = np.repeat(np.arange(self.n), [share.n_samples for share in shares])
        self.local = np.concatenate([np.arange(share.n_samples) for share in shares])
        self.m, self.inner = lengths(cfg, self.N)
        self.batches = np.random.default_rng([SHARED_BATCHES, cfg.seed])
        self.prox = proximal_step(cfg.prox)

    @property
    def eta(self):
        """As given; else that of Katyusha X's SVRG^1ep, or Johnson and Zhang's example for their Theorem 1."""
        if self.cfg.step_size:
            return self.cfg.step_size
        L = self.shares[0].L if self.cfg.smoothness == "largest" else self.shares[0].L_mean_square
        if self.cfg.epoch_length.startswith("fixed"):
            return 1 / (10 * L)
        return min(1 / (2 * L), np.sqrt(self.cfg.batch_size) / (2 * L * np.sqrt(self.m)))

    def mean(self, x, numbers):
        """(1/b) sum over the drawn numbers of grad f_j, scaled so that the mean over all j is the objective's."""
        total, g = np.zeros_like(x), np.empty_like(x)
        for i, share in enumerate(self.shares):
            drawn = self.local[numbers[self.owner[numbers] == i]]
            if len(drawn):
                share.gradient(x, drawn, g)
                total += len(drawn) * g * self.N / (self.n * share.n_samples)
        return total / len(numbers)

    def full(self, x):
        g, total = np.empty_like(x), np.zeros_like(x)
        for share in self.shares:
            share.gradient(x, None, g)
            total += g
        return total / self.n

    def draw(self):
        b = self.cfg.batch_size
        if self.cfg.sampling == "iid":
            return self.batches.integers(self.N, size=b)
        blocks = self.N * (np.arange(b) + self.batches.random(b)) / b
        return np.minimum(np.floor(blocks).astype(int), self.N - 1)

    def __call__(self, x):
        w, mu = x, self.full(x)
        for _ in range(next(self.inner)):
            S = self.draw()
            v = mu + self.mean(w, S) - self.mean(x, S)
            w = self.prox(w - self.eta * v, self.eta)
        return w


def lengths(cfg, N):
    """m, and the number of the iterate that each epoch returns."""
    rng, (name, _, pairs) = np.random.default_rng([EPOCHS, cfg.seed]), cfg.epoch_length.partition(":")
    if name == "geometric":
        m = int(np.ceil(N / cfg.batch_size))
        return m, (int(rng.geometric(1 / m)) for _ in itertools.count())
    m = int(pairs.partition(",")[0].removeprefix("m="))
    return m, (int(rng.integers(m)) if pairs.endswith("option=II") else m for _ in itertools.count())


def proximal_step(text):
    """(v, eta) -> the minimiser of psi(y) + |y - v|^2 / (2 eta)"""
    name, _, pair = text.partition(":")
    number = float(pair.partition("=")[2] or 0)
    return {
        "none": lambda v, eta: v,
        "l1": lambda v, eta: np.sign(v) * np.maximum(np.abs(v) - eta * number, 0),
        "l2": lambda v, eta: v / (1 + eta * number),
        "ball": lambda v, eta: v / max(1, np.linalg.norm(v) / number),
    }[name]


def run(shares, cfg, steps):
    epoch, y = Epochs(shares, cfg), start(shares)[0]
    for _ in range(steps):
        y = epoch(y)
    return np.tile(y, (len(shares), 1))


def work(cfg, n_total, n, steps):
    """Rounds of communication, and samples that gradients are taken of, in all."""
    made = sum(itertools.islice(lengths(cfg, n_total)[1], steps))
    return steps + made, steps * n_total + 2 * cfg.batch_size * made
