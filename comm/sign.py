"""The sign kernels on the CPU: vectors of reals in, one bit per coordinate out, and back.

The same functions for CuPy arrays, with the same names and contracts, are those of `sign_gpu`; `kernels(xp)` is the
module that fits.

Vectors v, g, m, e and x are contiguous, shape (dim,), float32 or float64. Words are uint32: bit j of word w belongs to
coordinate 32 w + j and is 1 for a plus, so that in memory bit j of byte b belongs to coordinate 8 b + j. There may be
more words than dim needs: bits past dim are written as 0 and never read.

Neither a zero, be it 0.0 or -0.0, nor a NaN has a sign. A zero takes its bit from `coins`, words that the caller fills,
turned over where `turn` is ~0 (0xffffffff) and not where it is 0. A NaN is an error that its bit would hide: whoever
reads signs returns whether there was one, and the caller must not go on as if there were none.

These are loops compiled by numba, because they look at each number once. NumPy, in whatever blocks, looks again for
zeros and NaN, and is slower for it. It is as fast only where it asks for v < 0 alone, which makes minus of no zero and
plus of every NaN. Every run of `outpace micro sign` measures both beside a copy on the same core.
"""

import functools
import sys
from types import ModuleType
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

Array = np.ndarray[Any, Any]

BITS: Final = 32  # of a word
AHEAD: Final = 6144  # bytes by which memory is asked for before it is read; less leaves the memory idle
LINE: Final = 64  # bytes of a cache line
BLOCK: Final = 1024  # coordinates that stay in the first-level cache from one loop over them to the next
LANES: Final = 64  # words whose votes are counted side by side
PLANES: Final = 16  # bits of a vote counter


def compiled(function: Any, **options: Any) -> Any:
    """The function compiled by numba, and kept on disk where it finds a folder to write to, which saves seconds."""
    try:
        return njit(function, nogil=True, cache=True, **options)
    except RuntimeError:  # neither the installation nor the home is writable
        return njit(function, nogil=True, **options)


# Lets a sum be taken in lanes. Infinities and NaN keep their meaning.
reordered: Any = functools.partial(compiled, fastmath={"reassoc", "nsz"})


def kernels(xp: ModuleType) -> ModuleType:
    """The module with the functions below for arrays of xp, numpy or cupy."""
    if xp is np:
        return sys.modules[__name__]
    from outpace.comm import sign_gpu

    return sign_gpu


def words(dim: int, chunks: int = 1) -> int:
    """How many words each of `chunks` equal chunks of dim coordinates has.

    >>> words(100), words(100, chunks=3)
    (4, 2)
    """
    return -(-dim // (BITS * chunks))


@compiled
def hashed(w: int, key: int) -> Any:
    """32 fair bits, a function of w and key (32 bits each): MurmurHash3's finaliser over a Weyl sequence."""
    h = np.uint32(np.uint32(w) * np.uint32(0x9E3779B9) + np.uint32(key))
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return h ^ (h >> np.uint32(16))


@compiled
def toss(key: int, coins: Array) -> None:
    """coins <- fair bits, word w that of `hashed(w, key)`."""
    for w in range(coins.size):
        coins[w] = hashed(w, key)


@compiled
def ballot(v: Array, coins: Array, turn: int, words: Array) -> bool:
    """words <- signs of v. Whether there was a NaN."""
    return bool(_write_signs(v, coins, turn, words) != 0)


@compiled
def momentum_ballot(g: Array, m: Array, beta: float, coins: Array, turn: int, words: Array) -> bool:
    """m <- beta m + (1 - beta) g; words <- signs of m. Whether there was a NaN."""
    kept, added = m.dtype.type(beta), m.dtype.type(1 - beta)
    nan = np.uint32(0)
    for start in range(0, m.size, BLOCK):
        here, there = slice(start, start + BLOCK), slice(start // BITS, (start + BLOCK) // BITS)
        m_part, g_part = m[here], g[here]
        for i in range(m_part.size):
            m_part[i] = kept * m_part[i] + added * g_part[i]
        nan |= _write_signs(m_part, coins[there], turn, words[there])
    return bool(nan != 0)


@compiled
def stochastic_ballot(v: Array, bound: float, key: int, words: Array) -> bool:
    """words <- random signs of v, each a plus with the chance 1/2 + v / (2 bound). Whether there was a NaN.

    What is beyond -bound or bound has the sign that it has. Coordinate j is drawn by `hashed(j, key)`, to 2^-32.
    """
    nan = False
    for w in range((v.size + BITS - 1) // BITS):
        plus = np.uint32(0)
        for j in range(min(BITS, v.size - BITS * w)):
            value = v[BITS * w + j]
            drawn = 2.0**-31 * hashed(BITS * w + j, key) - 1.0  # uniform on [-1, 1)
            plus |= np.uint32(value > bound * drawn) << np.uint32(j)
            nan |= value != value
        words[w] = plus
    return nan


@compiled
def feedback_ballot(g: Array, e: Array, step: float, coins: Array, turn: int, words: Array) -> float:
    """p = step g + e; words <- signs of p; e <- p - scale sign(p), scale = |p|_1 / dim.

    Returns scale, which is NaN or infinite where p was not finite.
    """
    rate, total = e.dtype.type(step), 0.0
    for start in range(0, e.size, BLOCK):
        here = slice(start, start + BLOCK)
        e_part, g_part = e[here], g[here]
        for i in range(e_part.size):
            e_part[i] += rate * g_part[i]
        total += _norm1(e_part)
    scale = e.dtype.type(total / e.size)
    for start in range(0, e.size, BLOCK):
        here, there = slice(start, start + BLOCK), slice(start // BITS, (start + BLOCK) // BITS)
        _write_signs(e[here], coins[there], turn, words[there])
        _step(e[here], words[there], scale)
    return float(scale)


@compiled
def tally(ballots: Array, coins: Array, outcome: Array) -> None:
    """outcome[0] <- the majority of the n ballots, shape (n, words), bit by bit; n < 2^16.

    A tie takes its bit from coins. Where outcome, shape (planes, words), has a second plane, that one gets a 0 for
    each tie and a 1 elsewhere.

    Votes are counted by adders on words: bit j of count[p] is bit p of the number of pluses of coordinate j.
    """
    n, size = ballots.shape
    half = n // 2
    planes = 0
    while n >> planes:
        planes += 1
    count = np.empty((PLANES, LANES), np.uint32)
    carry = np.empty(LANES, np.uint32)
    more, level = np.empty(LANES, np.uint32), np.empty(LANES, np.uint32)
    for start in range(0, size, LANES):
        lanes = min(LANES, size - start)
        for p in range(planes):
            for lane in range(LANES):
                count[p, lane] = 0
        for i in range(n):
            for lane in range(lanes):
                carry[lane] = ballots[i, start + lane]
            p = 0
            while (i + 1) >> p:  # the planes that i + 1 votes can reach
                for lane in range(LANES):
                    over = count[p, lane] & carry[lane]
                    count[p, lane] ^= carry[lane]
                    carry[lane] = over
                p += 1
        for lane in range(LANES):
            more[lane] = 0  # count > half, as far as the planes seen tell
            level[lane] = 0xFFFFFFFF  # count = half
        for p in range(planes - 1, -1, -1):
            if (half >> p) & 1:
                for lane in range(LANES):
                    level[lane] &= count[p, lane]
            else:
                for lane in range(LANES):
                    more[lane] |= level[lane] & count[p, lane]
                    level[lane] &= ~count[p, lane]
        for lane in range(lanes):
            if n % 2:
                level[lane] = 0  # half of an odd number, rounded down, is no tie
            outcome[0, start + lane] = more[lane] | (level[lane] & coins[start + lane])
        if outcome.shape[0] > 1:
            for lane in range(lanes):
                outcome[1, start + lane] = ~level[lane]


@compiled
def count(ballots: Array, sums: Array) -> None:
    """sums <- the sum of the n ballots, +1 for each plus and -1 for each minus; int8, shape (32 words,), n <= 127."""
    n, size = ballots.shape
    sums[:] = 0
    for i in range(n):
        for w in range(size):
            word = ballots[i, w]
            for j in range(BITS):
                vote = np.int8(1) if (word >> np.uint32(j)) & np.uint32(1) else np.int8(-1)
                sums[BITS * w + j] = np.int8(sums[BITS * w + j] + vote)


@compiled
def decide(sums: Array, coins: Array, outcome: Array) -> None:
    """What `tally` says of the ballots that were summed: outcome, shape (planes, words), of sums, shape (32 words,)."""
    for w in range(outcome.shape[1]):
        plus, tied = np.uint32(0), np.uint32(0)
        for j in range(BITS):
            plus |= np.uint32(sums[BITS * w + j] > 0) << np.uint32(j)
            tied |= np.uint32(sums[BITS * w + j] == 0) << np.uint32(j)
        outcome[0, w] = plus | (tied & coins[w])
        if outcome.shape[0] > 1:
            outcome[1, w] = ~tied


@compiled
def mean(ballots: Array, scales: Array, v: Array) -> None:
    """v <- (1/n) sum_i scales[i] sign_i over the n ballots, shape (n, words); scales is of the dtype of v."""
    v[:] = 0
    for i in range(ballots.shape[0]):
        scale = scales[i]
        for w in range((v.size + BITS - 1) // BITS):
            word = ballots[i, w]
            for j in range(min(BITS, v.size - BITS * w)):
                v[BITS * w + j] += scale if (word >> np.uint32(j)) & np.uint32(1) else -scale
    v /= v.dtype.type(ballots.shape[0])


@compiled
def apply(x: Array, outcome: Array, steps: Array, shrink: float) -> None:
    """x <- shrink x - steps[c] sign, c the chunk; outcome has shape (chunks, planes, words per chunk).

    Where there is a second plane, a 0 in it is a sign of 0.
    """
    chunks, planes, size = outcome.shape
    kept, none = x.dtype.type(shrink), x.dtype.type(0)
    for c in range(chunks):
        step = x.dtype.type(steps[c])
        for w in range(size):
            first = BITS * (c * size + w)
            plus = outcome[c, 0, w]
            moved = outcome[c, 1, w] if planes > 1 else np.uint32(0xFFFFFFFF)
            for j in range(min(BITS, x.size - first)):
                signed = step if (plus >> np.uint32(j)) & np.uint32(1) else -step
                x[first + j] = kept * x[first + j] - (signed if (moved >> np.uint32(j)) & np.uint32(1) else none)


@compiled
def _write_signs(v: Array, coins: Array, turn: int, words: Array) -> Any:
    """words <- signs of v. Not 0 if there was a NaN."""
    nan = np.uint32(0)
    full = v.size // BITS
    for w in range(full):
        _prefetch(v, BITS * w)
        minus, even = _compare(v, BITS * w)
        plus = np.uint32(~(minus | even))
        if even:  # few words have zeros, and fewer a NaN
            plus |= even & (coins[w] ^ np.uint32(turn))
            nan |= _unordered(v, BITS * w)
        words[w] = plus
    if v.size % BITS:
        plus, even, bad = _compare_tail(v, BITS * full)
        words[full] = plus | (even & (coins[full] ^ np.uint32(turn)))
        nan |= bad
    return nan


@compiled
def _step(x: Array, words: Array, step: Any) -> None:
    """x <- x - step sign."""
    for w in range(words.size):
        word = words[w]
        for j in range(min(BITS, x.size - BITS * w)):
            x[BITS * w + j] -= step if (word >> np.uint32(j)) & np.uint32(1) else -step


@intrinsic
def _compare(context: Any, v: Any, start: Any) -> Any:
    """Two masks of v[start:start + 32]: the sign bit, zero or NaN.

    In LLVM's own terms: 32 comparisons to a mask are an instruction or two of a vector unit, which the compiler does
    not find in a loop over bits.
    """
    signature = types.UniTuple(types.uint32, 2)(v, types.intp)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        values = _load(context, builder, kind, arguments)
        whole = ir.VectorType(ir.IntType(kind.dtype.bitwidth), BITS)
        masks = (
            builder.icmp_signed("<", builder.bitcast(values, whole), ir.Constant(whole, [0] * BITS)),
            builder.fcmp_unordered("==", values, ir.Constant(values.type, [0.0] * BITS)),
        )
        bits = [builder.bitcast(mask, ir.IntType(BITS)) for mask in masks]
        return context.make_tuple(builder, signature.return_type, bits)

    return signature, generate


@intrinsic
def _unordered(context: Any, v: Any, start: Any) -> Any:
    """The mask of the NaN in v[start:start + 32]."""
    signature = types.uint32(v, types.intp)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = _load(context, builder, signature.args[0], arguments)
        return builder.bitcast(builder.fcmp_unordered("uno", values, values), ir.IntType(BITS))

    return signature, generate


@intrinsic
def _prefetch(context: Any, v: Any, start: Any) -> Any:
    """Have the lines of 32 numbers, AHEAD of v[start], come to the second-level cache.

    A core asks for what comes next by itself, but not beyond the page of 4 KB in which it reads, and so would wait at
    the beginning of each. To ask for what is not there does nothing.
    """
    signature = types.void(v, types.intp)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        asking = ir.FunctionType(ir.VoidType(), [byte, *[number] * 3])
        ask = builder.module.declare_intrinsic("llvm.prefetch", [byte], asking)
        how = [ir.Constant(number, value) for value in (0, 2, 1)]  # to read, into the second level, as data
        here = builder.bitcast(_address(context, builder, kind, arguments), byte)
        for line in range(0, BITS * kind.dtype.bitwidth // 8, LINE):
            builder.call(ask, [builder.gep(here, [ir.Constant(ir.IntType(64), AHEAD + line)]), *how])

    return signature, generate


def _load(context: Any, builder: Any, kind: Any, arguments: Any) -> Any:
    """32 numbers of an array from an index on, as one vector of LLVM's."""
    vector = ir.VectorType(context.get_value_type(kind.dtype), BITS)
    first = _address(context, builder, kind, arguments)
    return builder.load(builder.bitcast(first, vector.as_pointer()), align=kind.dtype.bitwidth // 8)


def _address(context: Any, builder: Any, kind: Any, arguments: Any) -> Any:
    array, start = arguments
    return builder.gep(context.make_array(kind)(context, builder, array).data, [start])


@compiled
def _compare_tail(v: Array, start: int) -> Any:
    """The same of v[start:], fewer than 32 numbers; bits past the end are 0."""
    plus, even, nan = np.uint32(0), np.uint32(0), np.uint32(0)
    for j in range(v.size - start):
        bit = np.uint32(1) << np.uint32(j)
        if v[start + j] > 0:
            plus |= bit
        elif not v[start + j] < 0:
            even |= bit
        if v[start + j] != v[start + j]:
            nan |= bit
    return plus, even, nan


@reordered
def _norm1(v: Array) -> float:
    total = 0.0
    for i in range(v.size):
        total += abs(v[i])
    return total
