"""m-synchronous SGD in one process, given the gradients in the order in which the server took or dropped them.

Worker i's gradient is taken at X[i]: x0 first; then, after a gradient that was taken, the model that its round led to,
and after one that was dropped, the model of the round that was under way.
"""

import numpy as np

from reference import Batches, start, step_size


def replay(shares, cfg, m, log):
    """The model after the gradients of the (worker, taken or not) in `log`, m taken ones to a round, and how many
    gradients lie between the read and the use of each."""
    X, batches = start(shares), Batches(shares, cfg)
    x, read_in, staleness = X[0].copy(), [0] * len(shares), []
    rounds = sum(taken for _, taken in log) // m
    k, members, total = 0, [], 0.0
    for i, taken in log:
        g = batches.gradient(i, X[i])
        staleness.append(m * (k - read_in[i]))
        if not taken:
            X[i], read_in[i] = x, k
            continue
        total = total + g
        members.append(i)
        if len(members) == m:
            x = x - step_size(shares, cfg, k, rounds, gradients=m) / m * total
            k += 1
            for j in members:
                X[j], read_in[j] = x, k
            members, total = [], 0.0
    return x, np.array(staleness)
