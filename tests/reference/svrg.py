"""SVRG's epochs with all samples in one list, the paper's own order of operations and no Allreduce."""

import numpy as np

from outpace.comm import prox
from outpace.comm.streams import EPOCHS, SHARED_BATCHES
from reference import start


class Epochs:
    def __init__(self, shares, cfg):
        self.shares, self.cfg = shares, cfg
        self.n, self.N = len(shares), sum(share.n_samples for share in shares)
        self.owner = np.repeat(np.arange(self.n), [share.n_samples for share in shares])
        self.local = np.concatenate([np.arange(share.n_samples) for share in shares])
        self.m = int(np.ceil(self.N / cfg.batch_size))
        self.lengths = np.random.default_rng([EPOCHS, cfg.seed])
        self.batches = np.random.default_rng([SHARED_BATCHES, cfg.seed])
        self.psi = prox.parse(cfg.prox)

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

    def __call__(self, x, eta):
        w, mu = x.copy(), self.full(x)
        for _ in range(self.lengths.geometric(1 / self.m)):
            S = self.draw()
            v = mu + self.mean(w, S) - self.mean(x, S)
            w = w - eta * v
            self.psi.apply(w, eta, np.empty_like(w))
        return w


def run(shares, cfg, steps):
    epoch, y = Epochs(shares, cfg), start(shares)[0]
    for _ in range(steps):
        y = epoch(y, cfg.constants(shares[0]).step_size)
    return np.tile(y, (len(shares), 1))


def work(cfg, n_total, n, steps):
    """Rounds of communication, and samples that gradients are taken of, in all."""
    m = int(np.ceil(n_total / cfg.batch_size))
    inner = int(np.random.default_rng([EPOCHS, cfg.seed]).geometric(1 / m, size=steps).sum())
    return steps + inner, steps * n_total + 2 * cfg.batch_size * inner
