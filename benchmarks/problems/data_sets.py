"""Data sets in files, as NumPy arrays of bytes: rank 0 reads them, and every rank keeps the samples of its workers.

A data set is named in a SPEC as `NAME` or `NAME:PATH`, a path as rank 0 sees it; nothing is downloaded. Files are read
in order, some megabytes at a time, and the samples of each worker are sent on as they come: rank 0, too, never holds
more than its own share and all labels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from outpace.benchmarks.problems import augmentation, digits, image_files, image_folder, size, splits, text_file
from outpace.benchmarks.problems.augmentation import Augmentation
from outpace.benchmarks.problems.problem import Setting
from outpace.benchmarks.problems.samples import About, Part, Samples, Source
from outpace.benchmarks.problems.size import Size
from outpace.comm import agreement
from outpace.comm.errors import UserError

RECORDS: Final = 8  # message tag


def _read_digits(source: Source, seed: int) -> tuple[About, Part, Part]:
    """Scikit-learn's, of which the problem `digits` trains with the same and holds out the same."""
    about = About(digits.CLASSES, (1, 8, 8), white=digits.WHITE)
    train, held_out = (
        Part(len(images.labels), about.shape, images.labels, iter([_bytes(images.pixels).reshape(-1, *about.shape)]))
        for images in digits.images(seed)
    )
    return about, train, held_out


def _bytes(pixels: np.ndarray) -> np.ndarray:
    return np.rint(pixels * digits.WHITE).astype(np.uint8)


@dataclass(frozen=True)
class Kind:
    read: Callable[[Source, int], tuple[About, Part, Part]]  # of a seed; on rank 0, raises UserError
    path: str = ""  # what a path behind the name names; in brackets where it may be left out
    option: str = ""  # the field of `Source` that it takes


KINDS: Final = {
    "digits": Kind(_read_digits),
    "fashion-mnist": Kind(image_files.read_mnist, "[:FOLDER]"),
    "mnist": Kind(image_files.read_mnist, "[:FOLDER]"),
    "cifar10": Kind(image_files.read_cifar10, "[:FOLDER]"),
    "folder": Kind(image_folder.read, ":FOLDER", "side"),
    "text": Kind(text_file.read, ":FILE", "context"),
}


@dataclass(frozen=True)
class Share:
    """What one worker has of a data set."""

    about: About
    train: Samples
    held_out: Samples
    n_total: int  # training samples of all workers
    augmentation: Augmentation | None = None

    def batch(self, index: np.ndarray, seed: int, worker: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of these training samples, augmented as this worker sees them in this step."""
        inputs, targets = self.train.take(index)
        return self.augmentation(inputs, seed, worker, step) if self.augmentation else inputs, targets

    @property
    def label_counts(self) -> np.ndarray | None:
        """Training samples of each label, shape (classes,); None where samples have no label."""
        labels = self.train.labels
        return None if labels is None else np.bincount(labels, minlength=self.about.classes)


def parse(data: str, what: str, augment: str | None = None, **options: int | None) -> Source:
    """The data set that a text names, with what augments its batches, and with `side` and `context` where they are
    given; no file is opened. Raises UserError, which `what`, a flag, begins."""
    name, _, path = data.partition(":")
    if name not in KINDS:
        allowed = ", ".join(name + kind.path for name, kind in KINDS.items())
        raise UserError(f"{what}: unknown data '{name}'; allowed: {allowed}")
    form = KINDS[name].path
    if data == f"{name}:" or (path and not form) or (form.startswith(":") and not path):
        raise UserError(f"{what}: data is '{data}'; it must be of the form {name}{form}")
    for option, value in options.items():
        if value is not None and option != KINDS[name].option:
            taking = next(other for other, kind in KINDS.items() if kind.option == option)
            raise UserError(f"{what}: data={name} takes no {option}; data={taking} does")
    return Source(
        name, path or None, what, **options, augmentation=augmentation.parse(augment, what) if augment else None
    )


def load(source: Source, setting: Setting) -> list[Share]:
    """The shares of `setting.workers`: training samples as the split deals them, held-out ones in equal parts;
    collective.

    Raises UserError on every rank for what is wrong with the files, for a split that leaves a worker without samples,
    and before anything is allocated for what does not fit into the memory of a node.
    """
    comm, augment = setting.comm, source.augmentation
    read: Any = agreement.on_root(comm, lambda: KINDS[source.name].read(source, setting.seed))
    about, n_total, extent = comm.bcast(read and (read[0], read[1].count, _extent(setting, *read)))
    size.require(extent, setting, f"{source.what}: data={source.name}", made=True)
    if augment:
        augment.check(about.shape, source.what)
    decks = agreement.on_root(comm, lambda: _deal(setting, *read[1:])) or (None, None)
    parts = read[1:] if read else (None, None)
    train, held_out = (_hand_out(setting, about, part, deck) for part, deck in zip(parts, decks, strict=True))
    return [Share(about, *samples, n_total, augment) for samples in zip(train, held_out, strict=True)]


def _extent(setting: Setting, about: About, train: Part, held_out: Part) -> Size:
    """The records, and the inputs of a batch as bytes and as numbers."""
    inputs = setting.batch_size * math.prod(about.shape) * (1 + 1 / size.NUMBER)
    return Size(train.count + held_out.count, dim=0, row=math.prod(train.shape) / size.NUMBER, everywhere=inputs)


def _deal(setting: Setting, train: Part, held_out: Part) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The numbers, sorted, of each worker's samples for training and of those held out."""
    numbers = splits.deal(setting.split, train.labels, setting.n, setting.seed, train.count)
    return numbers, np.array_split(np.arange(held_out.count), setting.n)


def _hand_out(setting: Setting, about: About, part: Part | None, decks: list[np.ndarray] | None) -> list[Samples]:
    """The samples of this process's workers, of a part and the workers' numbers that rank 0 has; collective. Every rank
    hears of what is wrong with a file before it waits for what is in it. Raises UserError."""
    comm, hands = setting.comm, None
    held = comm.gather(list(setting.workers))
    if held and part and decks:
        hands = [[(decks[worker], part.labels_of(decks[worker])) for worker in workers] for workers in held]
    mine = comm.scatter(hands)
    count, shape = comm.bcast(part and (part.count, part.shape))
    records = [np.empty((len(numbers), *shape), np.uint8) for numbers, _ in mine]
    stop = 0
    while stop < count:
        chunk: Any = agreement.on_root(comm, lambda: next(part.chunks) if part else None)
        start, stop = stop, stop + comm.bcast(None if chunk is None else len(chunk))
        for rank, hand in enumerate(hands or []):
            for i, (numbers, _) in enumerate(hand):
                here = _between(numbers, start, stop)
                rows = chunk[numbers[here] - start]
                if rank == comm.rank:
                    records[i][here] = rows
                elif len(rows):
                    comm.Send(rows, rank, RECORDS)
        for rows, (numbers, _) in zip(records, mine, strict=True) if comm.rank else ():
            if len(rows := rows[_between(numbers, start, stop)]):
                comm.Recv(rows, 0, RECORDS)
    return [about.samples(rows, labels) for rows, (_, labels) in zip(records, mine, strict=True)]


def _between(numbers: np.ndarray, start: int, stop: int) -> slice:
    """Where the numbers from start to stop - 1 stand."""
    return slice(*np.searchsorted(numbers, (start, stop)).tolist())
