"""The network of a run, by its pairs of ranks: read from /network, and in words."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from outpace.benchmarks.trace import schema
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

STANDS_OUT: Final = 0.5  # of the median rate: what is slower is named


def of(run: Run) -> dict[str, NDArray[Any]]:
    """The columns of /network, a row for each pair that was measured; without rows where none was. Raises UserError."""
    names = schema.GROUPS["network"]
    if not any(run.has("network", name) for name in names):
        return {name: np.empty(0, about.dtype) for name, about in names.items()}
    columns = {name: run.column("network", name) for name in names}
    a, b = columns["a"], columns["b"]
    if not (a < b).all():
        raise UserError(f"{run.path}: /network has a pair whose a is not below its b")
    if len(set(zip(a.tolist(), b.tolist(), strict=True))) < len(a):
        raise UserError(f"{run.path}: /network has a pair twice")
    return columns


def in_words(a: np.ndarray, b: np.ndarray, rtt_s: np.ndarray, bytes_per_s: np.ndarray) -> str:
    """Round trip and rate of the pairs; a rank that is slow in all of its pairs, or else a pair that is."""
    told = f"round trip {_of_pairs(rtt_s, time)}\neach way {_of_pairs(bytes_per_s, rate)}"
    ranks = np.union1d(a, b)
    fastest = np.array([bytes_per_s[(a == rank) | (b == rank)].max() for rank in ranks])
    slow = fastest < STANDS_OUT * np.median(fastest)
    k = bytes_per_s.argmin()
    if slow.any():
        named = f"rank{'s' * int(slow.sum() > 1)} {', '.join(map(str, ranks[slow]))}"
        return f"{told}\nslow: {named}, at most {rate(fastest[slow].max())}"
    if bytes_per_s[k] < STANDS_OUT * np.median(bytes_per_s):
        return f"{told}\nslow: ranks {a[k]} and {b[k]}, {rate(bytes_per_s[k])}"
    return told


def _of_pairs(values: np.ndarray, told: Callable[[float], str]) -> str:
    if len(values) == 1:
        return told(values[0])
    return (
        f"{told(np.median(values))} in the median of {len(values)} pairs, {told(values.min())} to {told(values.max())}"
    )


def time(seconds: float) -> str:
    return _scaled(seconds, (1e-6, "us"), (1e-3, "ms"), (1.0, "s"))


def rate(bytes_per_s: float) -> str:
    return _scaled(8 * bytes_per_s, (1.0, "bit/s"), (1e3, "kbit/s"), (1e6, "Mbit/s"), (1e9, "Gbit/s"))


def _scaled(value: float, *units: tuple[float, str]) -> str:
    """Three digits, in the largest unit that is no more than that."""
    rounded = float(f"{value:.3g}")
    size, unit = max((unit for unit in units if unit[0] <= rounded), default=units[0])
    return f"{rounded / size:.4g} {unit}"
