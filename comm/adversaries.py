"""Workers that lie about their signs."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import numpy as np

from outpace.comm import sign, spec
from outpace.comm.errors import UserError
from outpace.comm.spec import NonNegativeInt
from outpace.comm.vote import ALL


@dataclass(frozen=True, kw_only=True)
class Honest:
    """Every worker says what it has computed."""


@dataclass(frozen=True, kw_only=True)
class Flip:
    """These ranks negate their signs."""

    rank: tuple[NonNegativeInt, ...]


@dataclass(frozen=True, kw_only=True)
class Random:
    """These ranks say plus or minus at random."""

    rank: tuple[NonNegativeInt, ...]


ADVERSARY: Final[dict[str, type[Any]]] = {"none": Honest, "flip": Flip, "random": Random}


def adversaries(text: str, n: int) -> Honest | Flip | Random:
    """What a SPEC such as `flip:rank=0+1` says of n workers. Raises UserError."""
    parsed: Honest | Flip | Random = spec.parse(text, ADVERSARY, "--adversaries")
    ranks = getattr(parsed, "rank", ())
    if any(rank >= n for rank in ranks):
        raise UserError(f"--adversaries {text}: rank is {max(ranks)}; there are ranks 0 to {n - 1}")
    return parsed


def adversary(
    liars: Honest | Flip | Random, keys: np.random.Generator, rank: int, xp: ModuleType
) -> Callable[[Any], None]:
    """What this rank does to the words of its ballot; `keys` make up random signs."""
    if rank not in getattr(liars, "rank", ()):
        return lambda words: None
    if isinstance(liars, Flip):
        return lambda words: xp.invert(words, out=words)
    toss = sign.kernels(xp).toss
    return lambda words: toss(int(keys.integers(ALL, endpoint=True)), words)
