"""A claim: what is said, by whom, and how it is tested. All claims are stated in this one form.

An experiment is a sweep like any other, as a table of `sweeps.description`; its repetitions are whole launches with
seeds of their own. `estimate` makes one number of each repetition, and the threshold says which numbers bear the claim
out. A claim about kernels or matrices alone has no sweep: its repetitions are seeds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from outpace.benchmarks.machine.launcher import value_of
from outpace.benchmarks.sweeps.point import Point
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

Table = dict[str, Any]  # a sweep, as in a TOML file


class Grade(StrEnum):
    """Where the number of a threshold comes from."""

    PAPER = "in the paper"  # its own text, or its authors' code
    SECOND_HAND = "in another account of the paper"
    DERIVED = "worked out by us"  # by algebra, and checked numerically
    CHOSEN = "chosen by us"  # the claim has no number


class Kind(StrEnum):
    """What a number depends on."""

    EXACT = "exact"  # nothing: counts and algebra
    RANDOM = "random"  # seeds
    TIMING = "timing"  # seeds, and whether the machine is idle


@dataclass(frozen=True)
class Threshold:
    """Which numbers bear the claim out, ends included; and why these."""

    reason: str
    least: float = -math.inf
    most: float = math.inf

    def __str__(self) -> str:
        if self.least == self.most:
            return f"{self.least:g}"
        if math.isinf(self.least):
            return f"at most {self.most:g}"
        return f"at least {self.least:g}" if math.isinf(self.most) else f"from {self.least:g} to {self.most:g}"

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most


@dataclass(frozen=True)
class Scale:
    """How large the experiments are: as on a laptop, `quick` for CI, or with so many workers on a cluster. The
    thresholds are the same."""

    quick: bool = False
    workers: int | None = None

    def n(self, laptop: int, quick: int | None = None) -> int:
        """Workers of an experiment whose number of them is free."""
        return self.workers or int(self.of(laptop, quick or laptop))

    def of(self, usual: float, quick: float) -> float:
        return quick if self.quick else usual

    def repetitions(self, usual: int = 5) -> int:
        return min(usual, 3) if self.quick else usual


@dataclass(frozen=True)
class Repetition:
    """One launch of each kind of the experiment, all with one seed."""

    seed: int
    scale: Scale
    launches: tuple[tuple[Point, Run], ...] = ()

    @property
    def runs(self) -> list[Run]:
        return [run for _, run in self.launches]

    def run(self, program: str = "", workers: int = 0, **flags: object) -> Run:
        """The one run of this program with so many workers and these flags, as its sweep gives them. Raises UserError
        where that is not one."""
        given = {f"--{name.replace('_', '-')}": str(value) for name, value in flags.items()}
        found = [
            run
            for point, run in self.launches
            if program in ("", point.program)
            and workers in (0, run.attrs["n_workers"])
            and all(value_of(name, point.flags) == value for name, value in given.items())
        ]
        if len(found) != 1:
            raise UserError(f"{len(found)} runs of {program or 'any program'} have {given}")
        return found[0]


@dataclass(frozen=True, kw_only=True)
class Claim:
    id: str
    group: str  # the paper's method, or EXTERNAL
    source: str  # paper and place; of others' results also the address and the day on which it was looked up
    sentence: str
    grade: Grade  # of the threshold's number
    estimator: str  # in words
    estimate: Callable[[Repetition], float]
    threshold: Threshold
    kind: Kind = Kind.RANDOM
    sweep: Callable[[Scale], Table] | None = None  # without repetitions, which come from below
    repetitions: int = 5  # on a laptop; at most 3 if quick
    control: Callable[[Repetition], float] | None = None  # of a timing: what does not move on an idle machine
    least_workers: int = 0  # with fewer it cannot be tested
    figure: str = ""  # of `outpace plot`, over the traces
    long: bool = False  # left out of --quick
    note: str = ""  # what a reader of the verdict must know

    @property
    def scale(self) -> str:
        return "cluster" if self.least_workers else "laptop"


EXTERNAL: Final = "external"
