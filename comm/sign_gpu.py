"""The sign kernels on the device: the functions of `sign`, which states their contracts, for CuPy arrays."""

import functools
from pathlib import Path
from typing import Any, Final

import numpy as np

from outpace.comm import cuda
from outpace.comm.arrays import module

BITS: Final = 32  # of a word
NO_REAL: Final = "float32"  # for kernels without a real argument

_launch = functools.partial(cuda.launch, Path(__file__).with_name("sign.cu"))


def toss(key: int, coins: Any) -> None:
    _launch("toss", NO_REAL, coins.size, np.uint32(key), coins, np.int64(coins.size))


def ballot(v: Any, coins: Any, turn: int, words: Any) -> bool:
    nan = module(v).zeros(1, dtype=np.int32)
    _launch("ballot", v.dtype, v.size, v, coins, np.uint32(turn), words, nan, np.int64(v.size))
    return bool(nan[0])


def momentum_ballot(g: Any, m: Any, beta: float, coins: Any, turn: int, words: Any) -> bool:
    real = m.dtype.type
    nan = module(m).zeros(1, dtype=np.int32)
    signs = coins, np.uint32(turn), words, nan, np.int64(m.size)
    _launch("momentum_ballot", m.dtype, m.size, g, m, real(beta), real(1 - beta), *signs)
    return bool(nan[0])


def stochastic_ballot(v: Any, bound: float, key: int, words: Any) -> bool:
    nan = module(v).zeros(1, dtype=np.int32)
    shape = words, nan, np.int64(v.size)
    _launch("stochastic_ballot", v.dtype, v.size, v, np.float64(bound), np.uint32(key), *shape)
    return bool(nan[0])


def feedback_ballot(g: Any, e: Any, step: float, coins: Any, turn: int, words: Any) -> float:
    real, dim = e.dtype.type, np.int64(e.size)
    norms = module(e).zeros(cuda.BLOCKS, dtype=np.float64)
    _launch("feedback", e.dtype, e.size, g, e, real(step), norms, dim)
    scale = real(float(norms.sum()) / e.size)
    _launch("feedback_ballot", e.dtype, e.size, e, scale, coins, np.uint32(turn), words, dim)
    return float(scale)


def tally(ballots: Any, coins: Any, outcome: Any) -> None:
    n, size = ballots.shape
    planes = np.int32(len(outcome))
    _launch("tally", NO_REAL, size, ballots, coins, outcome, planes, np.int64(n), np.int64(size))


def count(ballots: Any, sums: Any) -> None:
    n, size = ballots.shape
    _launch("count", NO_REAL, BITS * size, ballots, sums, np.int64(n), np.int64(size))


def decide(sums: Any, coins: Any, outcome: Any) -> None:
    planes, size = outcome.shape
    _launch("decide", NO_REAL, BITS * size, sums, coins, outcome, np.int32(planes), np.int64(size))


def mean(ballots: Any, scales: Any, v: Any) -> None:
    n, size = ballots.shape
    _launch("mean", v.dtype, v.size, ballots, scales, v, np.int64(n), np.int64(size), np.int64(v.size))


def apply(x: Any, outcome: Any, steps: Any, shrink: float) -> None:
    _, planes, size = outcome.shape
    shape = np.int32(planes), np.int64(size), np.int64(x.size)
    _launch("apply", x.dtype, x.size, x, outcome, steps, x.dtype.type(shrink), *shape)
