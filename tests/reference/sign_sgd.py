"""Signs as numbers -1 and +1 in a matrix, added up in plain sight: no bits, no chunks but where scales have them."""

import numpy as np

from outpace.comm import sign
from outpace.comm.streams import ADVERSARIES, CODEC, TIES
from reference import Batches, keys, start, step_size

WARM_UP = {0.2: 1, 0.5: 1, 0.9: 54}  # C(beta), by hand and as the paper has it


def tossed(key, dim):
    """A fair sign per coordinate."""
    coins = np.empty(sign.words(dim), np.uint32)
    sign.toss(int(key), coins)
    return 2.0 * np.unpackbits(coins.view(np.uint8), bitorder="little")[:dim] - 1


def uniform(seed, k, dim):
    """A number in [0, 1) per coordinate, for step k."""
    keys, hashes = np.empty(k + 1, np.uint32), np.empty(dim, np.uint32)
    sign.toss(seed, keys)
    sign.toss(int(keys[k]), hashes)
    return hashes / 2**32


def signs(V, zero):
    return np.where(V == 0, zero, np.sign(V))


def chunks(cfg, dim, n):
    """What each owner of a scale has."""
    size = 32 * sign.words(dim, n) if cfg.exchange == "sharded" else dim
    return [slice(first, first + size) for first in range(0, dim, size)]


def work(cfg, n_total, n, steps):
    """Rounds, and samples of all workers."""
    return steps, n * cfg.batch_size * (sum(range(1, steps + 1)) if cfg.batches == "growing" else steps)


def run(shares, cfg, steps):
    X, batches = start(shares), Batches(shares, cfg)
    n, dim = X.shape
    x, M, E = X[0], np.zeros((n, dim)), np.zeros((n, dim))
    error = np.zeros(dim)  # where the mean is compressed
    rng = np.random.default_rng([TIES, cfg.seed])
    lying = map(int, keys(cfg.adversaries)["rank"].split("+")) if cfg.adversaries != "none" else ()
    liars = {rank: np.random.default_rng([ADVERSARIES, cfg.seed, rank]) for rank in lying}
    drawing = [0] * n if cfg.vote == "none" else range(n)
    seeds = [int(np.random.default_rng([CODEC, cfg.seed, rank]).integers(2**32)) for rank in drawing]
    default = 1 if cfg.variant == "ef-signsgd" else 0.1 / n if cfg.vote == "sum" else 0.1
    decoupled, coupled = (cfg.weight_decay * (cfg.decay == name) for name in ("decoupled", "coupled"))
    for k in range(steps):
        gamma = step_size(shares, cfg, k, steps, default if cfg.step_size is None else None)
        G = batches.gradients(np.tile(x, (n, 1)), k + 1 if cfg.batches == "growing" else 1) + coupled * x
        if cfg.vote == "none":
            G = np.tile(G.mean(axis=0), (n, 1))
        # Of ties, and of each worker's zeros.
        coin, zero = np.ones(dim), np.full((n, dim), 0.0 if cfg.ties == "abstain" else 1.0)
        if cfg.ties in ("random", "keep"):
            key, *pairs = rng.integers(2**32, size=1 + -(-n // 2))
            coin = tossed(key, dim)
            fair = [tossed(pair, dim) for pair in pairs]
            zero = np.array([-fair[i // 2] if i % 2 else fair[i // 2] for i in range(n)])
        if cfg.vote == "none":
            zero[:] = zero[0]
        if cfg.variant == "signsgd":
            S = signs(G, zero)
        elif cfg.variant == "signum":
            M = cfg.momentum * M + (1 - cfg.momentum) * G
            S = signs(G if cfg.warm_up and k < WARM_UP[cfg.momentum] else M, zero)
        elif cfg.variant == "lion":
            S = signs(cfg.beta1 * M + (1 - cfg.beta1) * G, zero)
            M = cfg.beta2 * M + (1 - cfg.beta2) * G
        elif cfg.variant == "sto-sign":
            b = cfg.bound or max(min(np.abs(g).max(), 4 * np.sqrt(np.mean(g**2))) for g in G)
            U = np.stack([uniform(seed, k, dim) for seed in seeds])
            S = np.where(G / b > 2 * U - 1, 1.0, -1.0)
        else:
            P = gamma * G + E
            S = signs(P, zero)
            scales = np.abs(P).mean(axis=1, keepdims=True)
            E = P - scales * S
        for rank, stream in liars.items():
            S[rank] = -S[rank] if cfg.adversaries.startswith("flip") else tossed(stream.integers(2**32), dim)
        if cfg.variant != "ef-signsgd":
            total = S[0] if cfg.vote == "none" else S.sum(axis=0)
            tie = 0.0 if cfg.ties in ("keep", "abstain") else coin
            move = gamma * (total if cfg.vote == "sum" else signs(total, tie))
        else:
            move = (scales * S).mean(axis=0)
            if cfg.vote == "majority":
                p = move + error
                move = np.concatenate([np.abs(p[c]).mean() * signs(p[c], coin[c]) for c in chunks(cfg, dim, n)])
                error = p - move
        x = (1 - gamma * decoupled) * x - move
    return np.tile(x, (n, 1))
