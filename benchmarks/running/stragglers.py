"""Stragglers: how much longer than its compute time a gradient takes, as seconds to sleep after it.

Every kind but `trace` has a factor >= 1 per (rank, step), and (factor - 1) x the compute time is injected.
The factor is a function of seed, rank and step alone, so every program meets the same delays, in whatever
order its steps come. `trace` makes gradients as slow as those of an earlier run.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray

from outpace.comm import spec
from outpace.comm.errors import UserError
from outpace.comm.spec import Factor, InputFile, NonNegativeInt, Probability, Range
from outpace.comm.streams import DELAYS

if TYPE_CHECKING:
    from outpace.benchmarks.trace.run import Run

Factors = NDArray[np.float64]

# Steps drawn at once: a new generator costs about 10 microseconds, so its share of one step is far below one.
BLOCK = 256


@dataclass(frozen=True, kw_only=True)
class Stragglers:
    def factors(self, rng: np.random.Generator, rank: int, size: int) -> Factors:
        """Slow-downs of `size` steps of worker `rank`, each at least 1."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class NoStragglers(Stragglers):
    """Nothing is injected."""

    def factors(self, rng: np.random.Generator, rank: int, size: int) -> Factors:
        return np.ones(size)


@dataclass(frozen=True, kw_only=True)
class Fixed(Stragglers):
    """The named workers are slow in every step."""

    rank: tuple[NonNegativeInt, ...]
    factor: Factor

    def factors(self, rng: np.random.Generator, rank: int, size: int) -> Factors:
        return np.full(size, self.factor if rank in self.rank else 1.0)


@dataclass(frozen=True, kw_only=True)
class Random(Stragglers):
    """Each step of each worker is slow with probability p."""

    p: Probability
    factor: Factor

    def factors(self, rng: np.random.Generator, rank: int, size: int) -> Factors:
        return np.where(rng.random(size) < self.p, self.factor, 1.0)


@dataclass(frozen=True, kw_only=True)
class Exponential(Stragglers):
    """1 + scale E with E standard exponential; the mean is 1 + scale."""

    scale: Annotated[float, Range(above=0, most=1e15)] = 1.0

    def factors(self, rng: np.random.Generator, rank: int, size: int) -> Factors:
        return 1.0 + self.scale * rng.standard_exponential(size)


@dataclass(frozen=True, kw_only=True)
class Lognormal(Stragglers):
    """exp(sigma |Z|) with Z standard normal; the median is exp(0.674 sigma)."""

    sigma: Annotated[float, Range(above=0, most=50)]

    def factors(self, rng: np.random.Generator, rank: int, size: int) -> Factors:
        return np.exp(self.sigma * np.abs(rng.standard_normal(size)))


@dataclass(frozen=True, kw_only=True)
class Pareto(Stragglers):
    """P(factor > f) = f^-alpha for f >= 1; the mean is alpha / (alpha - 1), infinite up to alpha = 1."""

    alpha: Annotated[float, Range(above=1, most=1e9)]

    def factors(self, rng: np.random.Generator, rank: int, size: int) -> Factors:
        return 1.0 + rng.pareto(self.alpha, size)  # NumPy's is Lomax's, which starts at 0


@dataclass(frozen=True, kw_only=True)
class Replay(Stragglers):
    """The gradient of (rank, step) takes at least as long as it did in an earlier run, delay included.

    A run longer than the recorded one begins again with its first step.
    """

    file: InputFile

    def recorded_s(self, rank: int) -> list[float]:
        """Seconds per step of worker `rank`, in the order of its steps.

        Raises UserError for a file that is no trace and for a trace without steps of this worker.
        """
        run = _run(self.file)
        rows = np.flatnonzero(run.column("steps", "rank") == rank)
        if not len(rows):
            raise UserError(f"--stragglers trace: {self.file} has no steps of worker {rank}")
        rows = rows[np.argsort(run.column("steps", "step")[rows], kind="stable")]
        seconds: list[float] = (
            run.column("steps", "compute_s")[rows] + run.column("steps", "injected_s")[rows]
        ).tolist()
        return seconds


STRAGGLERS: dict[str, type[Stragglers]] = {
    "none": NoStragglers,
    "fixed": Fixed,
    "random": Random,
    "exponential": Exponential,
    "lognormal": Lognormal,
    "pareto": Pareto,
    "trace": Replay,
}


def parse(text: str) -> Stragglers:
    """The stragglers that a SPEC means. Raises UserError for a bad one; no file is opened.

    >>> parse("fixed:rank=0+3,factor=10")
    Fixed(rank=(0, 3), factor=10.0)
    """
    return spec.parse(text, STRAGGLERS, "--stragglers")


def canonical(text: str) -> str:
    """The SPEC with its defaults written out.

    >>> canonical("exponential")
    'exponential:scale=1'
    """
    return spec.render(parse(text), STRAGGLERS)


def check_ranks(stragglers: Stragglers, n: int) -> None:
    """Raise UserError if stragglers name a worker beyond the n there are, or replay a trace of fewer."""
    if isinstance(stragglers, Fixed) and max(stragglers.rank) >= n:
        raise UserError(
            f"--stragglers fixed: rank is {max(stragglers.rank)}; it must be at most {n - 1}, the last worker"
        )
    if isinstance(stragglers, Replay):
        missing = set(range(n)) - set(_run(stragglers.file).column("steps", "rank").tolist())
        if missing:
            raise UserError(
                f"--stragglers trace: {stragglers.file} has no steps of worker {min(missing)}; "
                f"{n} workers need a trace of as many"
            )


def _run(file: str) -> "Run":
    from outpace.benchmarks.trace.run import Run  # and h5py, which is slow

    return Run(file)


class Delays:
    """The delays of one worker, for any step in any order. A trace is read here, once."""

    def __init__(self, stragglers: Stragglers, seed: int, rank: int) -> None:
        self._stragglers, self._seed, self._rank = stragglers, seed, rank
        self._recorded_s = stragglers.recorded_s(rank) if isinstance(stragglers, Replay) else None
        self._block, self._factors = -1, [1.0]
        self.none = isinstance(stragglers, NoStragglers)

    def seconds(self, step: int, base_s: float, share: float = 1.0) -> float:
        """Seconds to inject into the gradient of `step`, a gradient over `share` batches.

        `base_s` is the compute time of one batch, which a recorded gradient is taken to be over as well.
        """
        if self._recorded_s is not None:
            return max(0.0, self._recorded_s[step % len(self._recorded_s)] - base_s) * share
        block, index = divmod(step, BLOCK)
        if block != self._block:
            rng = np.random.default_rng([DELAYS, self._seed, self._rank, block])
            self._factors = self._stragglers.factors(rng, self._rank, BLOCK).tolist()
            self._block = block
        return (self._factors[index] - 1.0) * base_s * share
