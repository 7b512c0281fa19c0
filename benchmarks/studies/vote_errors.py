"""How often a majority is wrong, against workers and noise."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from outpace.comm import sign

VOTERS: Final = (1, 3, 7, 15, 27, 51)


SNR: Final = 0.3  # a gradient of this size, in noise of standard deviation 1


NOISES: Final[dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]]] = {
    "Gaussian": lambda rng, shape: SNR + rng.standard_normal(shape),
    "Laplace": lambda rng, shape: SNR + rng.laplace(scale=np.sqrt(0.5), size=shape),
    "uniform": lambda rng, shape: SNR + rng.uniform(-np.sqrt(3), np.sqrt(3), shape),
    "skewed": lambda rng, shape: np.where(rng.random(shape) < 0.1, 50.0, -1.0),  # +4.1 in the mean
}


def vote_error(gradients: np.ndarray) -> float:
    """Share of the coordinates, whose true gradients are positive, with a negative vote; gradients (n, dim)."""
    n, dim = gradients.shape
    words, coins = np.zeros((n, sign.words(dim)), np.uint32), np.zeros(sign.words(dim), np.uint32)
    for gradient, ballot in zip(gradients, words, strict=True):
        sign.ballot(gradient, coins, 0, ballot)
    outcome = np.zeros((1, sign.words(dim)), np.uint32)
    sign.tally(words, coins, outcome)
    plus = np.unpackbits(outcome.view(np.uint8), bitorder="little")[:dim]
    return 1.0 - float(plus.mean())


def vote_errors(folder: Path, coordinates: int = 200_000) -> dict[tuple[str, int], float]:
    """(noise, voters) -> the error of a majority vote, measured with the kernels of the vote itself; no launch."""
    draws = {noise: [np.random.default_rng([17, n]) for n in VOTERS] for noise in NOISES}
    errors = {
        (noise, n): vote_error(NOISES[noise](rng, (n, coordinates)))
        for noise, rngs in draws.items()
        for n, rng in zip(VOTERS, rngs, strict=True)
    }
    shown = Table("noise", *(f"n = {n}" for n in VOTERS), title=f"share of wrong votes, {coordinates} coordinates")
    for noise in NOISES:
        shown.add_row(noise, *(f"{errors[noise, n]:.3f}" for n in VOTERS))
    Console().print(shown)
    return errors
