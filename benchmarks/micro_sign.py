"""What `outpace micro sign` times, and how on a device: by its own events, many calls in a row, with nothing allocated
and nothing read back between them."""

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any, Final, NamedTuple

import numpy as np

from outpace.benchmarks.machine import twins
from outpace.comm import cuda, sign
from outpace.comm.arrays import to_host
from outpace.comm.errors import UserError

DIMS: Final = {"numpy": 1 << 24, "cupy": 1 << 28}  # far beyond the caches of either
DRAWN: Final = 1 << 24  # numbers at most; a longer vector repeats them
VOTERS: Final = 8
CALLS: Final = 20  # between two events


class Kernel(NamedTuple):
    name: str
    nbytes: float  # per coordinate, that it has to read and write
    call: Callable[[], Any]


def kernels(xp: ModuleType, dim: int) -> list[Kernel]:
    """A copy of a float32 vector of dim numbers, then the sign kernels, validated. Raises UserError where memory is
    short."""
    twins.validate(sign.kernels(xp), xp)
    try:
        return _kernels(xp, dim)
    except MemoryError:
        raise UserError(f"micro sign takes {20.25 * dim / 1e9:.1f} GB of memory, and there is less") from None


def _kernels(xp: ModuleType, dim: int) -> list[Kernel]:
    here = sign.kernels(xp)
    drawn = np.random.default_rng(7).standard_normal(min(dim, DRAWN), dtype=np.float32)
    v, copy, m, e, x = (xp.zeros(dim, dtype=np.float32) for _ in range(5))
    v.reshape(-1, drawn.size)[:] = xp.asarray(drawn)
    words, coins = (xp.zeros(sign.words(dim), dtype=np.uint32) for _ in range(2))
    here.ballot(v, coins, 0, words)
    packed = np.packbits(drawn > 0, bitorder="little").view(np.uint32)
    if not np.array_equal(to_host(words[: packed.size]), packed):
        raise RuntimeError("the kernel's signs are not NumPy's")
    steps, outcome = xp.full(1, 0.1, dtype=np.float32), words.reshape(1, 1, -1)
    ballots, tally = words.reshape(VOTERS, -1), xp.zeros((1, words.size // VOTERS), dtype=np.uint32)
    signs = coins, 0, xp.zeros_like(words)
    if xp is np:
        cast = partial(here.ballot, v, *signs), partial(here.momentum_ballot, v, m, 0.9, *signs)
        feedback = partial(here.feedback_ballot, v, e, 0.1, *signs)
    else:
        nan, scale = xp.zeros((), dtype=np.int32), xp.zeros((), dtype=np.float32)
        norms = xp.zeros(cuda.BLOCKS, dtype=np.float64)
        cast = partial(here.start_ballot, v, *signs, nan), partial(here.start_momentum_ballot, v, m, 0.9, *signs, nan)
        feedback = partial(here.start_feedback_ballot, v, e, 0.1, *signs, norms, scale)
    return [
        Kernel("copy", 8, partial(xp.copyto, copy, v)),
        *([Kernel("reading, by BLAS", 4, partial(e.dot, e))] if xp is np else []),  # nearly all that a ballot does
        Kernel("ballot", 4.125, cast[0]),
        Kernel("momentum_ballot", 12.125, cast[1]),
        Kernel("feedback_ballot", 20.125, feedback),
        Kernel(f"tally of {VOTERS}", 0.125 + 0.125 / VOTERS, partial(here.tally, ballots, coins, tally)),
        Kernel("apply", 8.125, partial(here.apply, x, outcome, steps, 1.0)),
    ]


def by_events(xp: ModuleType, functions: Sequence[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Seconds of a call of each function on the device, `rounds` samples of CALLS calls each, taken in turns after a
    warm-up."""
    times: list[list[float]] = [[] for _ in functions]
    begin, end = xp.cuda.Event(), xp.cuda.Event()
    for turn in range(rounds + 1):
        for function, samples in zip(functions, times, strict=True):
            begin.record()
            for _ in range(CALLS):
                function()
            end.record()
            end.synchronize()
            if turn:
                samples.append(xp.cuda.get_elapsed_time(begin, end) / 1e3 / CALLS)
    return times
