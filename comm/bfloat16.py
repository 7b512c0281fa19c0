"""What a vector goes over the wire as: as it is, or in half as many bytes.

A bfloat16 is the upper half of a float32: its sign, its eight bits of exponent, and seven of its mantissa. The lower
half is dropped after a random number of as many bits has been added to it, so that the mean is right:

    Q(x) = the next bfloat16 above |x| with the probability (|x| - below) / (above - below), else the one below

The random bits are a hash of a key, which a seeded stream gives for each message: the same on a GPU as on the CPU.
"""

from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from mpi4py import MPI

from outpace.comm import cuda
from outpace.comm.arrays import copy, module, twin
from outpace.comm.errors import UserError
from outpace.comm.streams import CODEC

WireDtype = Literal["same", "bfloat16"]
BITS: Final = 16  # of a word


def check(wire_dtype: WireDtype, dtype: str) -> None:
    """Raise UserError for messages of bfloat16 that are no halves of the model's numbers."""
    if wire_dtype == "bfloat16" and dtype != "float32":
        raise UserError(f"--wire-dtype bfloat16: --dtype is {dtype}; it must be float32, of which bfloat16 is a half")


class WireFormat:
    """How vectors of one worker travel; `memory` is what is remembered, by name, for `budget.keep`.

    >>> form, x = WireFormat("bfloat16", seed=0, rank=0), np.array([1.0, -2.5, 3.0e38], np.float32)
    >>> words = form.like(x)
    >>> form.narrow(x, words)
    >>> form.widen(words, x)
    >>> words.dtype.name, x[:2].tolist()
    ('uint16', [1.0, -2.5])
    """

    def __init__(self, wire_dtype: WireDtype = "same", seed: int = 0, rank: int = 0) -> None:
        self._rounding: Any = np.random.default_rng([CODEC, seed, rank]) if wire_dtype == "bfloat16" else None
        self.memory = {"rounding": self._rounding} if self._rounding else {}

    def like(self, x: Any) -> Any:
        """An array for x as it travels: x itself, or words of its shape, uint16."""
        return module(x).zeros(x.shape, np.uint16) if self._rounding else x

    def narrow(self, x: Any, words: Any) -> None:
        """words <- x, float32, shape (dim,), rounded. Nothing where x travels as it is."""
        if not self._rounding:
            return
        key = int(self._rounding.integers(2**32))
        if module(x) is np:
            from outpace.comm.bfloat16_cpu import narrow  # which needs numba

            narrow(x.view(np.uint32), np.uint32(key), words)
        else:
            source, numbers = Path(__file__).with_suffix(".cu"), x.view(np.uint32)
            cuda.launch(source, "narrow", "float32", x.size, numbers, np.uint32(key), words, np.int64(x.size))

    def widen(self, words: Any, x: Any) -> None:
        """x <- the numbers that the words say, of one shape. Nothing where x travels as it is."""
        if self._rounding:
            bits = x.view(np.uint32)
            bits[...] = words
            bits <<= np.uint32(BITS)


SAME: Final = WireFormat()


class Formed:
    """As `arrays.Wired`, an array of zeros like x and what MPI sees of it, in that form: after `to_wire` the array is
    what was sent."""

    def __init__(self, x: Any, form: WireFormat, comm: MPI.Intracomm) -> None:
        self.array, self._form = module(x).zeros_like(x), form
        self._words = form.like(self.array)
        self.wire = twin(self._words, comm)
        self.nbytes = int(self._words.nbytes)

    def to_wire(self) -> Any:
        self._form.narrow(self.array, self._words)
        self._form.widen(self._words, self.array)
        copy(self._words, self.wire)
        return self.wire

    def from_wire(self) -> Any:
        copy(self.wire, self._words)
        self._form.widen(self._words, self.array)
        return self.array
