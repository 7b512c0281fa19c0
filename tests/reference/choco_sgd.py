"""X <- X - gamma G; X_hat <- X_hat + C(X - X_hat); X <- X + eta (W - I) X_hat. C as the vector that it leaves."""

import numpy as np

from outpace.comm import sign
from outpace.comm.streams import CODEC
from reference import Batches, keys, mixing_matrix, start, step_size
from reference.quantized_sgd import quantised, uniform


def signs(v, rng):
    coins = np.empty(-(-len(v) // 32), np.uint32)
    sign.toss(int(rng.integers(2**32)), coins)
    tossed = np.unpackbits(coins.view(np.uint8), bitorder="little")[: len(v)] * 2.0 - 1
    return np.abs(v).mean() * np.where(v == 0, tossed, np.sign(v))


def greatest(v, share):
    chosen = np.argsort(-np.abs(v), kind="stable")[: max(1, round(share * len(v)))]
    return np.where(np.isin(np.arange(len(v)), chosen), v, 0)


def qsgd(v, s, rng):
    tau = 1 + min(len(v) / s**2, np.sqrt(len(v)) / s)
    return quantised(v, np.linalg.norm(v), s, uniform(rng, len(v))) / tau


def compressed(v, compressor, rng):
    name, values = compressor.partition(":")[0], keys(compressor)
    if name == "sign":
        return signs(v, rng)
    if name == "top-k":
        return greatest(v, float(values.get("share", 0.01)))
    return qsgd(v, int(values.get("levels", 7)), rng) if name == "qsgd" else v


def run(shares, cfg, steps):
    n, W = len(shares), mixing_matrix(cfg.topology, len(shares))
    X, batches = start(shares), Batches(shares, cfg)
    X_hat, rngs = np.zeros_like(X), [np.random.default_rng([CODEC, cfg.seed, rank]) for rank in range(n)]
    for k in range(steps):
        X = X - step_size(shares, cfg, k, steps) * batches.gradients(X)
        X_hat = X_hat + [compressed(v, cfg.compressor, rng) for v, rng in zip(X - X_hat, rngs, strict=True)]
        X = X + cfg.consensus_step_size * (W - np.eye(n)) @ X_hat
    return X
