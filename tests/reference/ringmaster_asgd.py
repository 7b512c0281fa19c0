"""Ringmaster and Ringleader in one process, given the order in which the workers' gradients came to the server.

Worker i's gradient is taken at the model as it stood after its last one came, x0 the first time. Both replays return
the model, and what became of every gradient in the order in which it became that: (worker, used or not, updates between
the read of its model and that).
"""

import numpy as np

from reference import Batches, start, step_size


def ringmaster(shares, cfg, threshold, order):
    X, batches, n = start(shares), Batches(shares, cfg), len(shares)
    x, k, read, log = X[0].copy(), 0, [0] * n, []
    for came, i in enumerate(order):
        g = batches.gradient(i, X[i])
        delay = k - read[i]
        log.append((i, delay < threshold, delay))
        if delay < threshold:
            x = x - step_size(shares, cfg, came, len(order)) / n * g
            k += 1
        X[i], read[i] = x, k
    return x, log


def ringleader(shares, cfg, order):
    """The order is cut into rounds: one that has met all workers, then what comes until all but the last of these have
    come again. A worker's gradients of a round are those up to its update in it; later ones are of the next round."""
    X, batches, n = start(shares), Batches(shares, cfg), len(shares)
    x, k, read, log = X[0].copy(), 0, [0] * n, []
    mine, ahead = [[] for _ in shares], [[] for _ in shares]  # gradients of this round and of the next one, by worker
    unused, unused_ahead = [], []
    updated = set()  # the workers that have made their update in this round
    for came, i in enumerate(order):
        g = batches.gradient(i, X[i])
        if i in updated:
            ahead[i].append(g)
            unused_ahead.append((i, read[i]))
        else:
            mine[i].append(g)
            unused.append((i, read[i]))
            if all(mine):
                d = np.mean([np.mean(of_one, axis=0) for of_one in mine], axis=0)
                x = x - step_size(shares, cfg, came, len(order)) / n * d
                log += [(j, True, k - at) for j, at in unused]
                k, unused = k + 1, []
                updated.add(i)
        if len(updated) == n:
            mine, ahead, unused, unused_ahead = ahead, [[] for _ in shares], unused_ahead, []
            updated = set()
        X[i], read[i] = x, k
    return x, log + [(j, False, k - at) for j, at in unused + unused_ahead]
