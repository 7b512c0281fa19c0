"""x <- x - gamma mean(Q(G)), the quantised numbers as numbers."""

import numpy as np

from outpace.algorithms.quantized_sgd import CODECS
from outpace.comm import sign, spec
from outpace.comm.streams import CODEC
from reference import Batches, start


def quantised(v, name, levels, u):
    norm = np.linalg.norm(v) if name == "qsgd" else np.abs(v).max()
    return norm / levels * np.sign(v) * np.floor(levels / norm * np.abs(v) + u)


def uniform(rng, dim):
    hashes = np.empty(dim, np.uint32)
    sign.toss(int(rng.integers(2**32)), hashes)
    return hashes / 2**32


def run(shares, cfg, steps):
    X, batches = start(shares), Batches(shares, cfg)
    x, name = X[0], cfg.codec.partition(":")[0]
    levels = spec.parse(cfg.codec, CODECS, "--codec").levels
    rngs = [np.random.default_rng([CODEC, cfg.seed, rank]) for rank in range(len(shares))]
    for _ in range(steps):
        G = batches.gradients(np.tile(x, (len(shares), 1)))
        Q = [quantised(g, name, levels, uniform(rng, len(g))) for g, rng in zip(G, rngs, strict=True)]
        x = x - cfg.step_size * np.mean(Q, axis=0)
    return np.tile(x, (len(shares), 1))
