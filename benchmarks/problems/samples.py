"""What a data set is: where it is read, what every rank knows of it, and the samples of one worker."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from outpace.benchmarks.problems.augmentation import Augmentation

AT_A_TIME: Final = 2**22  # bytes of records


@dataclass(frozen=True)
class Source:
    """A data set as a SPEC names it."""

    name: str
    path: str | None  # of the folder or file, where one is given
    what: str  # begins its errors
    side: int | None = None  # of an image, in pixels, where images differ
    context: int | None = None  # bytes of a sample of text
    augmentation: Augmentation | None = None


@dataclass(frozen=True)
class Part:
    """The samples for training, or those held out, as rank 0 reads them.

    Each has a record of so many bytes as its `shape` says; `chunks` are all records in order, some of them at a time,
    uint8, shape (k, *shape). Whatever is wrong with the files may be raised there, as UserError.
    """

    count: int
    shape: tuple[int, ...]
    labels: np.ndarray | None  # int64, shape (count,)
    chunks: Iterator[np.ndarray]

    def labels_of(self, numbers: np.ndarray) -> np.ndarray | None:
        return None if self.labels is None else self.labels[numbers]


@dataclass
class Samples:
    """The samples of one worker for training, or held out: their records, and their labels, shape (m,), if any."""

    records: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.records)

    def take(self, index: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        """Inputs, uint8, shape (b, *About.shape), and targets, int64, of the samples with these numbers; new arrays, or
        views for a slice. The targets are labels, shape (b,)."""
        assert self.labels is not None
        return self.records[index], self.labels[index]


@dataclass(frozen=True)
class About:
    """What every rank knows of a data set of images; other sets are derived from it."""

    classes: int
    shape: tuple[int, ...]  # of an input: (channels, height, width)
    white: float = 255.0  # the largest value of a pixel
    mean: tuple[float, ...] = (0.0,)  # per channel, of pixels / white over the training images
    std: tuple[float, ...] = (1.0,)

    def samples(self, records: np.ndarray, labels: np.ndarray | None) -> Samples:
        return Samples(records, labels)

    def normalised(self, pixels: np.ndarray, dtype: Any) -> np.ndarray:
        """(pixels / white - mean) / std, channel by channel, of shape (b, channels, height, width)."""
        mean, std = (np.array(each, dtype).reshape(-1, 1, 1) for each in (self.mean, self.std))
        inputs = pixels.astype(dtype)
        inputs /= self.white
        inputs -= mean
        inputs /= std
        return inputs
