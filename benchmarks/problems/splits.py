"""Splits: which samples each worker holds. Every sample goes to exactly one worker."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from outpace.comm import spec
from outpace.comm.errors import UserError
from outpace.comm.spec import Factor, PositiveFloat, PositiveInt
from outpace.comm.streams import SPLIT

Indices = NDArray[np.intp]
Labels = NDArray[np.integer]

DEAL = 4  # numbers for each sample while they are dealt
SHARES = 1  # last number of the random stream; a problem that draws its held-out samples takes 0


@dataclass(frozen=True, kw_only=True)
class Split:
    needs_labels: ClassVar[bool] = True

    def check(self, n_labels: int, n: int) -> None:
        """Raise UserError for a number of labels that n workers cannot share in this way."""

    def shares(self, labels: Labels, n: int, rng: np.random.Generator) -> list[Indices]:
        """Sample numbers per worker, a partition of range(len(labels)); labels are 0 to their number - 1."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Iid(Split):
    """Shuffled and cut into equal amounts, which differ by one sample at most."""

    needs_labels: ClassVar[bool] = False

    def shares(self, labels: Labels, n: int, rng: np.random.Generator) -> list[Indices]:
        return np.array_split(rng.permutation(len(labels)), n)


@dataclass(frozen=True, kw_only=True)
class ByLabels(Split):
    """Worker i holds the labels (i classes + j) mod n_labels, j < classes; holders share a label evenly."""

    classes: PositiveInt = 2  # labels per worker

    def check(self, n_labels: int, n: int) -> None:
        if self.classes > n_labels:
            raise UserError(f"--split labels: classes is {self.classes}; the data has {n_labels} labels")
        if self.classes * n < n_labels:
            raise UserError(
                f"--split labels: classes is {self.classes}; with {n} workers it must be at least "
                f"{-(-n_labels // n)}, or some of the {n_labels} labels would have no worker"
            )

    def shares(self, labels: Labels, n: int, rng: np.random.Generator) -> list[Indices]:
        n_labels = int(labels.max()) + 1
        held: list[list[Indices]] = [[] for _ in range(n)]
        for label in range(n_labels):
            holders = [i for i in range(n) if (label - i * self.classes) % n_labels < self.classes]
            parts = np.array_split(rng.permutation(np.flatnonzero(labels == label)), len(holders))
            for i, part in zip(holders, parts, strict=True):
                held[i].append(part)
        return [np.concatenate(parts) for parts in held]


@dataclass(frozen=True, kw_only=True)
class Dirichlet(Split):
    """Each label goes to the workers in shares drawn from Dirichlet(alpha, ..., alpha) (arXiv:1905.12022).

    A large alpha is like `iid`, a small one gives most of a label to one worker.
    """

    alpha: PositiveFloat

    def shares(self, labels: Labels, n: int, rng: np.random.Generator) -> list[Indices]:
        held: list[list[Indices]] = [[] for _ in range(n)]
        for label in range(int(labels.max()) + 1):
            samples = rng.permutation(np.flatnonzero(labels == label))
            parts = _cut(samples, rng.dirichlet(np.full(n, self.alpha)))
            for i, part in enumerate(parts):
                held[i].append(part)
        return [np.concatenate(parts) for parts in held]


@dataclass(frozen=True, kw_only=True)
class BySize(Split):
    """Shuffled and cut into amounts that grow geometrically from worker 0 to the last."""

    needs_labels: ClassVar[bool] = False

    ratio: Factor  # last worker's amount over worker 0's, to within rounding

    def shares(self, labels: Labels, n: int, rng: np.random.Generator) -> list[Indices]:
        amounts = np.geomspace(1.0, self.ratio, n)
        return _cut(rng.permutation(len(labels)), amounts / amounts.sum())


SPLITS: dict[str, type[Split]] = {"iid": Iid, "labels": ByLabels, "dirichlet": Dirichlet, "size": BySize}


def deal(
    text: str, labels: Labels | None, n: int, seed: int, n_total: int | None = None, in_order: bool = False
) -> list[Indices]:
    """Each worker's sample numbers, n sorted arrays that partition range(n_total).

    With `in_order` they are not sorted but left as they were dealt: for `iid` and `size` one after the other they are
    the same permutation for any n.

    `labels`, shape (n_total,), are any whole numbers; None stands for `n_total` samples without labels.

    >>> [len(share) for share in deal("size:ratio=4", None, 3, seed=0, n_total=70)]
    [10, 20, 40]

    Raises UserError for a bad SPEC, a label that no worker would hold, a worker without samples, and data
    without labels where the split needs them.
    """
    split = spec.parse(text, SPLITS, "--split")
    if labels is None:
        numbered, n_labels = np.zeros(n_total or 0, dtype=np.intp), None
    else:
        numbered = np.unique(labels, return_inverse=True)[1]
        n_labels = int(numbered.max(initial=-1)) + 1
    check(text, len(numbered), n_labels, n)
    shares = split.shares(numbered, n, np.random.default_rng([SPLIT, seed, SHARES]))
    for i, share in enumerate(shares):
        if not len(share):
            raise UserError(
                f"--split {text}: worker {i} of {n} would have none of the {len(numbered)} samples; "
                "take fewer workers or a more even split"
            )
    return shares if in_order else [np.sort(share) for share in shares]


def check(text: str, n_total: int, n_labels: int | None, n: int) -> None:
    """Refuse what `deal` will, as far as the numbers of samples and of labels (None: without) tell. Raises UserError.

    >>> check("labels:classes=2", 1437, 10, 5)
    """
    split, name = spec.parse(text, SPLITS, "--split"), text.partition(":")[0]
    if split.needs_labels and n_labels is None:
        free = " or ".join(name for name, kind in SPLITS.items() if not kind.needs_labels)
        raise UserError(f"--split {name}: the data of this problem has no labels; take {free}")
    if n > n_total:
        raise UserError(f"{n} workers are too many for {n_total} samples: each needs one at least")
    split.check(n_labels or 1, n)


def canonical(text: str) -> str:
    """The SPEC with its defaults written out.

    >>> canonical("labels")
    'labels:classes=2'
    """
    return spec.render(spec.parse(text, SPLITS, "--split"), SPLITS)


def _cut(samples: Indices, weights: NDArray[np.float64]) -> list[Indices]:
    """Parts of `samples` in proportion to `weights`, which sum to 1, to within one sample."""
    ends = np.rint(np.cumsum(weights[:-1]) * len(samples)).astype(np.intp)
    return np.split(samples, ends)
