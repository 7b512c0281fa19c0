"""Whether the sign kernels of this host's device compute what they should."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from outpace.comm import sign
from outpace.comm.arrays import to_host
from outpace.comm.vote import ALL


def validate(kernels: ModuleType, xp: ModuleType) -> None:
    """Raise RuntimeError unless each of the device's `kernels` does what its twin on the CPU does, in both real types,
    to the bit but for the order of a sum."""
    if xp is np:
        return
    rng = np.random.default_rng(8)
    for dtype, tolerance in ((np.float32, 1e-6), (np.float64, 1e-12)):
        g = rng.standard_normal(100_001).astype(dtype)
        g[::7] = 0
        *exact, e = zip(course(kernels, xp.asarray, g), course(sign, np.array, g), strict=True)
        same = all(np.array_equal(mine, theirs) for mine, theirs in exact)
        # The scale of what is sent is a sum; so each number that is left may be off by it.
        if not (same and np.allclose(*e, rtol=0, atol=tolerance)):
            raise RuntimeError("a kernel on the device and its twin on the CPU differ")


def course(kernels: ModuleType, there: Callable[[np.ndarray], Any], g: np.ndarray) -> list[np.ndarray]:
    """What every one of the kernels makes of the vector g; `there` brings a copy of an array to where they work. The
    last one depends on the order of a sum."""
    coins, n = np.zeros(sign.words(g.size), np.uint32), 5
    ballots = np.random.default_rng(9).integers(0, 2**32, (n, coins.size), dtype=np.uint32)
    v, bits, votes, scales = there(g), there(coins), there(ballots), there(np.abs(g[1 : 1 + n]))
    m, e, x, mean = (there(np.zeros_like(g)) for _ in range(4))
    words = [there(np.zeros_like(coins)) for _ in range(4)]
    tallied, decided = (there(np.zeros((1, 2, coins.size), np.uint32)) for _ in range(2))
    sums = there(np.zeros(32 * coins.size, np.int8))
    kernels.toss(99, bits)
    kernels.ballot(v, bits, 0, words[0])
    kernels.momentum_ballot(v, m, 0.9, bits, ALL, words[1])
    kernels.feedback_ballot(v, e, 0.1, bits, 0, words[2])
    kernels.stochastic_ballot(v, 4.0, 99, words[3])
    kernels.tally(votes, bits, tallied[0])
    kernels.count(votes, sums)
    kernels.decide(sums, bits, decided[0])
    kernels.mean(votes, scales, mean)
    kernels.apply(x, tallied, scales[:1], 0.9)
    return [to_host(a) for a in (bits, *words, tallied, decided, sums, m, x, mean, e)]
