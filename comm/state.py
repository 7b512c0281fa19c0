"""What a program needs to go on later, taken out of its arrays and generators and put back into them."""

import copy
from typing import Any

import numpy as np

from outpace.comm import arrays

Captured = Any  # the values of an array, or the state of a generator as a dict of JSON's types


def capture(thing: Any) -> Captured:
    """A copy of an array's values, on the host, or of a NumPy generator's state."""
    if isinstance(thing, np.random.Generator):
        return copy.deepcopy(dict(thing.bit_generator.state))
    return np.array(arrays.to_host(thing))


def restore(thing: Any, captured: Captured) -> None:
    """Put the captured state back, in place."""
    if isinstance(thing, np.random.Generator):
        thing.bit_generator.state = captured
    else:
        arrays.copy(np.asarray(captured), thing)
