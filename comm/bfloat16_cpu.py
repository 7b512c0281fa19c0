"""float32 to the words of bfloat16, by numba."""

from typing import Any

import numpy as np

from outpace.comm.sign import compiled, hashed


@compiled
def narrow(bits: Any, key: int, words: Any) -> None:
    """words, uint16 <- the upper halves of the numbers whose bits, uint32, these are, rounded by `hashed(i, key)`."""
    for i in range(bits.size):
        number = bits[i]
        if number & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000):
            rounded = number | np.uint32(0x00400000)  # what is added could make a number of a NaN
        else:
            rounded = np.uint32(number + (hashed(i, key) & np.uint32(0xFFFF)))
        words[i] = rounded >> np.uint32(16)
