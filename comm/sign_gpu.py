"""The sign kernels on the device: the functions of `sign`, which states their contracts, for CuPy arrays."""

import functools
from pathlib import Path
from typing import Any, Final

import numpy as np

from outpace.comm import cuda
from outpace.comm.arrays import module

BITS: Final = 32  # of a word
EACH: Final = 16  # numbers that a thread takes at a time: ROWS x WIDTH
NO_REAL: Final = "float32"  # for kernels without a real argument

_launch = functools.partial(cuda.launch, Path(__file__).with_name("sign.cu"))


def toss(key: int, coins: Any) -> None:
    _launch("toss", NO_REAL, coins.size, np.uint32(key), coins, np.int64(coins.size))


def ballot(v: Any, coins: Any, turn: int, words: Any) -> bool:
    nan = module(v).zeros((), dtype=np.int32)
    start_ballot(v, coins, turn, words, nan)
    return bool(nan)


def start_ballot(v: Any, coins: Any, turn: int, words: Any, nan: Any) -> None:
    """The kernel of `ballot`. Where there is a NaN, `nan`, int32 of shape (), becomes 1, which nobody waits for."""
    _launch("ballot", v.dtype, _threads(v.size), v, coins, np.uint32(turn), words, nan, np.int64(v.size))


def momentum_ballot(g: Any, m: Any, beta: float, coins: Any, turn: int, words: Any) -> bool:
    nan = module(m).zeros((), dtype=np.int32)
    start_momentum_ballot(g, m, beta, coins, turn, words, nan)
    return bool(nan)


def start_momentum_ballot(g: Any, m: Any, beta: float, coins: Any, turn: int, words: Any, nan: Any) -> None:
    """The kernel of `momentum_ballot`, with `nan` as in `start_ballot`."""
    real = m.dtype.type
    signs = coins, np.uint32(turn), words, nan, np.int64(m.size)
    _launch("momentum_ballot", m.dtype, _threads(m.size), g, m, real(beta), real(1 - beta), *signs)


def stochastic_ballot(v: Any, bound: float, key: int, words: Any) -> bool:
    nan = module(v).zeros((), dtype=np.int32)
    shape = words, nan, np.int64(v.size)
    _launch("stochastic_ballot", v.dtype, _threads(v.size), v, np.float64(bound), np.uint32(key), *shape)
    return bool(nan)


def feedback_ballot(g: Any, e: Any, step: float, coins: Any, turn: int, words: Any) -> float:
    norms, scale = module(e).empty(cuda.BLOCKS, dtype=np.float64), module(e).empty((), dtype=e.dtype)
    start_feedback_ballot(g, e, step, coins, turn, words, norms, scale)
    return float(scale)


def start_feedback_ballot(
    g: Any, e: Any, step: float, coins: Any, turn: int, words: Any, norms: Any, scale: Any
) -> None:
    """The kernels of `feedback_ballot`, whose answer is written to `scale`, shape (), of the dtype of e.

    norms, float64 of shape (cuda.BLOCKS,), is theirs to write to.
    """
    threads, dim = _threads(e.size), np.int64(e.size)
    _launch("feedback", e.dtype, threads, g, e, e.dtype.type(step), norms, dim)
    _launch("feedback_scale", e.dtype, 1, norms, scale, np.int64(cuda.blocks(threads)), dim)
    _launch("feedback_ballot", e.dtype, threads, e, scale, coins, np.uint32(turn), words, dim)


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
    chunks, planes, size = outcome.shape
    shape = np.int32(planes), np.int64(size), np.int64(x.size)
    threads = _threads(BITS * size)
    _launch("apply", x.dtype, threads, x, outcome, steps, x.dtype.type(shrink), *shape, rows=chunks)


def _threads(dim: int) -> int:
    """For a vector; of a kernel that reads one."""
    return -(-dim // EACH)
