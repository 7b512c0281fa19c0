"""Algorithm 1 of AD-PSGD in one process, event by event: the paces are given, averagings take no time.

A worker reads its model, computes a gradient there (line 4), averages with a random neighbour meanwhile (line 5),
applies the gradient to what its model is then (line 6), and begins the next one at once.
"""

import heapq

import numpy as np

from outpace.comm.streams import PEERS
from reference import Batches, start

BEGINS, AVERAGES, ENDS = 0, 1, 2


def ring(n):
    """The neighbours of each worker."""
    return [sorted({(i - 1) % n, (i + 1) % n}) for i in range(n)]


def exponential(n):
    """Hops 1 and 2^i + 1 for i = 1 .. floor(log2(n - 1)), both ways."""
    hops = [1] + [2**i + 1 for i in range(1, n) if 2**i <= n - 1]
    return [sorted({(i + way * hop) % n for hop in hops for way in (-1, 1)} - {i}) for i in range(n)]


def run(shares, cfg, neighbours, gradient_s, until_s, late=0.0):
    """Yield (seconds, X) for every state until `until_s`: how long it lasted, and the models, one per row.

    A gradient of worker i takes gradient_s[i], give or take a tenth. The averaging comes when the share `late` of that
    has passed: Algorithm 1 orders it before line 6 only, so 0 and 1 are its extremes.
    """
    n = len(shares)
    X, batches, pace = start(shares), Batches(shares, cfg), np.random.default_rng([0, cfg.seed])
    peers = [np.random.default_rng([PEERS, cfg.seed, i]) for i in range(n)]
    G, now_s = X.copy(), 0.0
    events = [(gradient_s[i] * pace.random(), BEGINS, i) for i in range(n)]
    heapq.heapify(events)
    while events[0][0] < until_s:
        then_s, event, i = heapq.heappop(events)
        yield then_s - now_s, X
        now_s = then_s
        if event == AVERAGES:
            j = neighbours[i][peers[i].integers(len(neighbours[i]))]
            X[i] = X[j] = (X[i] + X[j]) / 2
            continue
        if event == ENDS:
            X[i] -= cfg.step_size * G[i]
        G[i] = batches.gradient(i, X[i])
        takes_s = gradient_s[i] * pace.uniform(0.9, 1.1)
        heapq.heappush(events, (now_s + late * takes_s, AVERAGES, i))
        heapq.heappush(events, (now_s + takes_s, ENDS, i))


def replay(X, peers):
    """The models X, one per row, after plain averagings only: `peers[i]` has worker i's partners in its own order.

    An averaging is next where it is so at both of its workers. In which order such pairs are taken changes nothing.
    """
    X, peers = X.copy(), [[int(peer) for peer in reversed(own)] for own in peers]
    while pair := next(((i, own[-1]) for i, own in enumerate(peers) if own and peers[own[-1]][-1:] == [i]), None):
        X[list(pair)] = X[list(pair)].mean(axis=0)
        for worker in pair:
            peers[worker].pop()
    assert not any(peers), f"averagings that only one side recorded: {peers}"
    return X


def mean_consensus(states, settled_s):
    """The mean over time of (1/n) sum of the squared distances of the models from their mean, from `settled_s` on."""
    now_s = total = lasted_s = 0.0
    for seconds, X in states:
        now_s += seconds
        if now_s > settled_s:
            total += seconds * ((X - X.mean(axis=0)) ** 2).sum() / len(X)
            lasted_s += seconds
    return total / lasted_s
