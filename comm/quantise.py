"""Vectors as a few levels of their norm, rounded at random so that the mean is right: QSGD (arXiv:1610.02132) and
TernGrad (arXiv:1705.07878).

    Q(v)_j = (N / s) sign(v_j) l_j,   l_j = floor(s |v_j| / N + u_j),   u_j uniform on [0, 1)

with s levels and N = |v|_2, or N = max |v_j|. A message is N and 1 + bits(s) planes of bits, signs first, then l from
its lowest bit. The u_j are a hash of a key, `sign.toss`, multiples of 2^-24, or 2^-32 for float64: the same on a GPU as
on the CPU.
"""

from types import ModuleType
from typing import Any, Final

import numpy as np

from outpace.comm import sign
from outpace.comm.arrays import to_host

BLOCK: Final = 1 << 14  # coordinates that are coded at a time on the CPU, a multiple of 32: no step allocates a vector


class Quantiser:
    """Vectors like x, shape (dim,), to messages, shape (message_words,) of uint32, and back."""

    def __init__(self, levels: int, greatest: bool, x: Any, xp: ModuleType) -> None:
        """`levels` is s, at most 127; N is the greatest |v_j| or else |v|_2."""
        self.xp, self.dtype, self.dim = xp, x.dtype, x.size
        self.levels, self.greatest = levels, greatest
        self.planes = 1 + levels.bit_length()
        self.head = x.dtype.itemsize // 4  # words that hold N
        self.message_words = self.head + self.planes * sign.words(self.dim)
        self.block = BLOCK if xp is np else self.dim
        self.hashes = xp.empty(self.dim, dtype=np.uint32)
        self.toss = sign.kernels(xp).toss
        self.toss(0, self.hashes)  # compiles it, which is set-up

    def norm(self, v: Any) -> float:
        """N of v; infinite where v is not finite, since a NaN may be lost in a maximum over workers."""
        norm = float(max(v.max(), -v.min()) if self.greatest else self.xp.sqrt(v @ v))
        return norm if norm < np.inf else np.inf

    def encode(self, v: Any, norm: float, rounding: np.random.Generator, message: Any) -> None:
        """message <- Q(v) with this N, by one number of `rounding`. An infinite N makes the decoded vector NaN."""
        xp, bits = self.xp, self._bits(message[None])[0]
        message[: self.head] = xp.asarray([norm], dtype=self.dtype).view(np.uint32)
        rate = self.levels / norm if 0 < norm < np.inf else 0.0
        self.toss(int(rounding.integers(2**32)), self.hashes)
        for start in range(0, self.dim, self.block):
            part = v[start : start + self.block]
            level = xp.abs(part)
            level *= rate
            level += self._uniform(self.hashes[start : start + self.block])
            level = xp.fmin(level, self.levels).astype(np.uint8)  # by rounding, s |v| / N may exceed s
            for plane, flags in enumerate([part < 0, *(level & (1 << b) for b in range(self.planes - 1))]):
                packed = xp.packbits(flags, bitorder="little")
                bits[plane, start // 8 : start // 8 + packed.size] = packed

    def mean(self, messages: Any, v: Any) -> None:
        """v <- the mean of the decoded messages, shape (n, message_words)."""
        v[:] = 0
        self.add(messages, len(messages), v)

    def add(self, messages: Any, divisor: float, v: Any) -> None:
        """v <- v + the sum of the decoded messages, shape (n, message_words), over the divisor."""
        xp = self.xp
        norms = to_host(messages[:, : self.head]).copy().view(self.dtype).ravel()
        bits = self._bits(messages)
        for start in range(0, self.dim, self.block):
            part = v[start : start + self.block]
            for norm, planes in zip(norms, bits, strict=True):
                block = planes[:, start // 8 : -(-(start + part.size) // 8)]
                negative, *magnitude = (xp.unpackbits(plane, bitorder="little")[: part.size] for plane in block)
                level: Any = sum(plane << b for b, plane in enumerate(magnitude))
                level = level.astype(np.int8)
                level *= 1 - 2 * negative.astype(np.int8)
                part += level * self.dtype.type(norm / (self.levels * divisor))

    def _uniform(self, hashes: Any) -> Any:
        """Numbers in [0, 1), of as many of a hash's leading bits as a real of this type holds."""
        digits = min(np.finfo(self.dtype).nmant + 1, 32)
        u = (hashes >> (32 - digits)).astype(self.dtype)
        u *= 2.0**-digits
        return u

    def _bits(self, messages: Any) -> Any:
        """The planes of messages as bytes, shape (n, planes, 4 words)."""
        rows = messages.view(np.uint8)[:, 4 * self.head :]
        return rows.reshape(len(messages), self.planes, -1)
