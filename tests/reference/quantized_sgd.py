"""x <- x - gamma mean(Q(G)), the quantised numbers as numbers."""

import numpy as np

from outpace.comm import sign
from outpace.comm.streams import CODEC
from reference import Batches, keys, start, step_size


def quantised(v, norm, levels, u):
    return norm / levels * np.sign(v) * np.floor(levels / norm * np.abs(v) + u)


def uniform(rng, dim):
    hashes = np.empty(dim, np.uint32)
    sign.toss(int(rng.integers(2**32)), hashes)
    return hashes / 2**32


def run(shares, cfg, steps):
    X, batches = start(shares), Batches(shares, cfg)
    x, codec = X[0], {"qsgd": {"levels": "7", "norm": "l2"}, "terngrad": {"levels": "1", "norm": "max"}}
    codec = codec[cfg.codec.partition(":")[0]] | keys(cfg.codec)
    levels = int(codec["levels"])
    rngs = [np.random.default_rng([CODEC, cfg.seed, rank]) for rank in range(len(shares))]
    for k in range(steps):
        G = batches.gradients(np.tile(x, (len(shares), 1)))
        norms = np.abs(G).max(axis=1) if codec["norm"] == "max" else np.linalg.norm(G, axis=1)
        if codec.get("shared") == "1":
            norms[:] = norms.max()
        Q = [quantised(g, N, levels, uniform(rng, len(g))) for g, N, rng in zip(G, norms, rngs, strict=True)]
        x = x - step_size(shares, cfg, k, steps) * np.mean(Q, axis=0)
    return np.tile(x, (len(shares), 1))
