"""Compressors of vectors v, shape (dim,), that are contractions: E |C(v) - v|^2 <= (1 - delta) |v|^2.

    SPEC              C(v)                                      delta                   a message, in words of 4 bytes
    identity          v                                         1                       dim
    sign              (|v|_1 / dim) sign(v)                     |v|_1^2 / (dim |v|^2)   1 + W
    top-k:share=      the k greatest |v_j|, 0 elsewhere         k / dim                 2 k
    qsgd:levels=      Q(v) / tau, with Q of `quantise` and      1 / tau                 1 + (1 + bits(s)) W
                      tau = 1 + min(dim / s^2, sqrt(dim) / s)

in float32, with W = ceil(dim / 32); every real of a message is two words in float64. k is share dim, rounded, at least
1. Each codec has the `message_words` of its messages; `encode(v, rounding, message)`, which writes C(v), draws what it
tosses from the generator and uses v up; and `add(message, v)`, by which v <- v + C. So has whoever adds a message the
same vector afterwards, to the bit. What is not finite stays so, in C(v) and in what it is added to. No step allocates a
vector.
"""

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, Final, Protocol

import numpy as np

from outpace.comm import sign
from outpace.comm.quantise import BLOCK, Quantiser
from outpace.comm.spec import Probability, Range


class Codec(Protocol):
    """Vectors to messages, shape (message_words,) of uint32, and back."""

    message_words: int

    def encode(self, v: Any, rounding: np.random.Generator, message: Any) -> None: ...

    def add(self, message: Any, v: Any) -> None: ...


@dataclass(frozen=True)
class Identity:
    def codec(self, x: Any, xp: ModuleType) -> Codec:
        return Plain(x)


@dataclass(frozen=True)
class Sign:
    def codec(self, x: Any, xp: ModuleType) -> Codec:
        return ScaledSigns(x, xp)


@dataclass(frozen=True, kw_only=True)
class TopK:
    share: Probability = 0.01  # k / dim

    def codec(self, x: Any, xp: ModuleType) -> Codec:
        return Greatest(max(1, round(self.share * x.size)), x, xp)


@dataclass(frozen=True, kw_only=True)
class Qsgd:
    levels: Annotated[int, Range(least=1, most=127)] = 7  # s; 2^k - 1 fill their k bits

    def codec(self, x: Any, xp: ModuleType) -> Codec:
        return Shrunk(Quantiser(self.levels, False, x, xp))


COMPRESSORS: Final[dict[str, type[Any]]] = {"identity": Identity, "sign": Sign, "top-k": TopK, "qsgd": Qsgd}


class Plain:
    """All of v."""

    def __init__(self, x: Any) -> None:
        self.message_words = x.nbytes // 4

    def encode(self, v: Any, rounding: np.random.Generator, message: Any) -> None:
        message[:] = v.view(np.uint32)

    def add(self, message: Any, v: Any) -> None:
        v += message.view(v.dtype)


class ScaledSigns:
    """A scale, and a bit for each sign. A zero's is tossed: with any sign |C(v) - v|^2 = |v|^2 - |v|_1^2 / dim."""

    def __init__(self, x: Any, xp: ModuleType) -> None:
        self.kernels: Any = sign.kernels(xp)
        self.head = x.dtype.itemsize // 4  # words of the scale
        self.message_words = self.head + sign.words(x.size)
        self.coins = xp.zeros(sign.words(x.size), dtype=np.uint32)
        self.scale = xp.zeros(1, dtype=x.dtype)
        v, message = xp.zeros_like(x), xp.zeros(self.message_words, dtype=np.uint32)
        self.encode(v, np.random.default_rng(), message)  # compiles the kernels, which is set-up
        self.add(message, v)

    def encode(self, v: Any, rounding: np.random.Generator, message: Any) -> None:
        self.kernels.toss(int(rounding.integers(2**32)), self.coins)
        self.scale[:] = self.kernels.feedback_ballot(v, v, 0.0, self.coins, 0, message[self.head :])
        message[: self.head] = self.scale.view(np.uint32)

    def add(self, message: Any, v: Any) -> None:
        self.scale.view(np.uint32)[:] = message[: self.head]
        self.kernels.apply(v, message[self.head :].reshape(1, 1, -1), -self.scale, 1.0)


class Greatest:
    """The k greatest values, then their places; of equal ones the first."""

    def __init__(self, k: int, x: Any, xp: ModuleType) -> None:
        self.xp, self.k, self.dim = xp, k, x.size
        self.head = k * x.dtype.itemsize // 4  # words of the values
        self.message_words = self.head + k
        self.block = BLOCK if xp is np else self.dim
        self.magnitudes = xp.empty_like(x)
        self.values, self.places = xp.empty(k, dtype=x.dtype), xp.empty(k, dtype=np.uint32)

    def encode(self, v: Any, rounding: np.random.Generator, message: Any) -> None:
        xp, filled = self.xp, 0
        xp.abs(v, out=self.magnitudes)
        self.magnitudes.partition(self.dim - self.k)  # NaN at the end
        least = float(self.magnitudes[self.dim - self.k])
        least = math.inf if math.isnan(least) else least
        for equal in (False, True):
            for start in range(0, self.dim, self.block):
                part = v[start : start + self.block]
                size = xp.abs(part)
                found = xp.flatnonzero(size == least if equal else ~(size <= least))[: self.k - filled]
                self.values[filled : filled + len(found)] = part[found]
                self.places[filled : filled + len(found)] = found + start
                filled += len(found)
        message[: self.head] = self.values.view(np.uint32)
        message[self.head :] = self.places

    def add(self, message: Any, v: Any) -> None:
        self.values.view(np.uint32)[:] = message[: self.head]
        self.places[:] = message[self.head :]
        for start in range(0, self.k, self.block):
            v[self.places[start : start + self.block]] += self.values[start : start + self.block]


class Shrunk:
    """Unbiased roundings, made a contraction by 1 / tau."""

    def __init__(self, quantiser: Quantiser) -> None:
        self.quantiser, self.message_words = quantiser, quantiser.message_words
        self.tau = 1 + min(quantiser.dim / quantiser.levels**2, math.sqrt(quantiser.dim) / quantiser.levels)

    def encode(self, v: Any, rounding: np.random.Generator, message: Any) -> None:
        self.quantiser.encode(v, self.quantiser.norm(v), rounding, message)

    def add(self, message: Any, v: Any) -> None:
        self.quantiser.add(message[None], self.tau, v)
