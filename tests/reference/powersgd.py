"""D <- G + E; every matrix of its mean is projected on the columns of mean(D) Q; E keeps what each worker's own
projection leaves out. Bases are Gram and Schmidt's; the iterates depend on the spaces that they span."""

import numpy as np

from outpace.comm.streams import PROJECTION
from reference import Batches, start, step_size


def basis(P):
    """Gram and Schmidt's, each column twice, since once leaves what rounding has of it."""
    columns = []
    for p in P.T:
        for b in 2 * columns:
            p = p - (b @ p) * b
        columns.append(p / np.sqrt(p @ p))
    return np.stack(columns, axis=1)


def run(shares, cfg, steps):
    X, batches = start(shares), Batches(shares, cfg)
    x, E, m = X[0], np.zeros_like(X), 0.0
    rng, ends = np.random.default_rng([PROJECTION, cfg.seed]), np.cumsum([np.prod(s) for s in shares[0].shapes])
    parts = [(slice(end - np.prod(shape), end), shape) for end, shape in zip(ends, shares[0].shapes, strict=True)]
    Q = {i: rng.standard_normal((shape[1], min(cfg.rank, *shape))) for i, (_, shape) in enumerate(parts) if shape[1:]}
    for k in range(steps):
        D = batches.gradients(np.tile(x, (len(shares), 1))) + E
        update, E = D.mean(axis=0), np.zeros_like(D)
        for i, (part, shape) in enumerate(parts):
            if i in Q:
                M = update[part].reshape(shape)
                B = basis(M @ Q[i])
                Q[i] = M.T @ B
                update[part] = (B @ Q[i].T).ravel()
                for e, d in zip(E, D, strict=True):
                    e[part] = (d[part].reshape(shape) - B @ (B.T @ d[part].reshape(shape))).ravel()
        m = cfg.momentum * m + update
        x = x - step_size(shares, cfg, k, steps) * (update + m if cfg.momentum else update)
    return np.tile(x, (len(shares), 1))
