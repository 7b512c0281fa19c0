"""Images in the binary files of MNIST, of the data sets in its format (IDX), and of CIFAR-10."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from outpace.benchmarks.problems import splits
from outpace.benchmarks.problems.samples import AT_A_TIME, About, Part, Source
from outpace.benchmarks.problems.size import NUMBER
from outpace.comm import inputs, memory
from outpace.comm.errors import UserError

INSTALLED: Final = Path("/usr/share/datasets")  # where Debian's packages of data sets put them
PARTS: Final = ("train", "t10k")
IDX: Final = 0x0800  # an IDX file of bytes begins with this plus its number of dimensions
# Means and standard deviations per channel of the training pixels, divided by 255, to four digits.
MNIST: Final = {
    "fashion-mnist": About(10, (1, 28, 28), mean=(0.2860,), std=(0.3530,)),
    "mnist": About(10, (1, 28, 28), mean=(0.1307,), std=(0.3081,)),
}
CIFAR10: Final = About(10, (3, 32, 32), mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
BATCHES: Final = tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",)  # training, held out
BATCH: Final = 10_000  # images in a file, each behind a byte with its label
ADVICE: Final = {
    "fashion-mnist": "install Debian's package dataset-fashion-mnist, or name the folder of its four files",
    "mnist": "name the folder of its four files",
    "cifar10": "name the folder of the six .bin files of its binary version",
}


def read_mnist(source: Source, seed: int) -> tuple[About, Part, Part]:
    about = MNIST[source.name]
    train, held_out = (_idx_part(source, about, name) for name in PARTS)
    return about, train, held_out


def _idx_part(source: Source, about: About, name: str) -> Part:
    """Of images and labels in a file each."""
    of_images, of_labels = (find(source, f"{name}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    count, chunks = _idx(of_images, about.shape[1:], source.what)
    of_them, labels = _idx(of_labels, (), source.what)
    if of_them != count:
        raise UserError(f"{source.what}: {of_images} has {count:,} images, {of_labels} has {of_them:,} labels")
    memory.require(NUMBER * splits.DEAL * count, f"{source.what}: {of_images} with {count:,} images")
    classes = checked(np.concatenate([*labels]), about.classes, of_labels, source.what)
    return Part(count, about.shape, classes, (chunk.reshape(-1, *about.shape) for chunk in chunks))


def read_cifar10(source: Source, seed: int) -> tuple[About, Part, Part]:
    train, held_out = (_cifar10_part(source, names) for names in BATCHES)
    return CIFAR10, train, held_out


def _cifar10_part(source: Source, names: tuple[str, ...]) -> Part:
    """Of files that are read twice: for the labels, and for the images."""
    paths, what, shape = [find(source, name) for name in names], source.what, CIFAR10.shape
    record = (1 + math.prod(shape),)
    labels = [
        checked(np.concatenate([chunk[:, 0].copy() for chunk in records(path, BATCH, record, what)]), 10, path, what)
        for path in paths
    ]
    chunks = (chunk[:, 1:].reshape(-1, *shape) for path in paths for chunk in records(path, BATCH, record, what))
    return Part(BATCH * len(paths), shape, np.concatenate(labels), chunks)


def _idx(path: Path, shape: tuple[int, ...], what: str) -> tuple[int, Iterator[np.ndarray]]:
    """How many items of this shape an IDX file says that it has, and these. Raises UserError."""
    header = 4 * (2 + len(shape))
    with inputs.opened(path, f"{what}: ") as file:
        start = file.read(header)
    if len(start) < header:
        raise UserError(f"{what}: {path} is cut off: an IDX file begins with {header} bytes, it has {len(start)}")
    magic, count, *found = np.frombuffer(start, ">u4").tolist()
    wanted = IDX + 1 + len(shape)
    if magic != wanted:
        kind = "images" if shape else "labels"
        raise UserError(f"{what}: {path} is no IDX file of {kind}: it begins with {magic:#010x}, not {wanted:#010x}")
    if (*found,) != shape:
        sizes = [" x ".join(map(str, size)) for size in (found, shape)]
        raise UserError(f"{what}: {path} has images of {sizes[0]} pixels; they must be of {sizes[1]}")
    if not count:
        raise UserError(f"{what}: {path} holds no data")
    return count, records(path, count, shape, what, header)


def records(path: Path, count: int, shape: tuple[int, ...], what: str, start: int = 0) -> Iterator[np.ndarray]:
    """So many records of bytes behind the first `start` bytes of a file, in order, some at a time: uint8, shape
    (k, *shape). Raises UserError for a file of another length."""
    each = math.prod(shape)
    total = start + count * each
    with inputs.opened(path, f"{what}: ") as file:
        file.read(start)
        for at in range(start, total, step := max(1, AT_A_TIME // each) * each):
            chunk = file.read(min(step, total - at))
            if at + len(chunk) < min(at + step, total):
                raise UserError(f"{what}: {path} is cut off: it ends after {at + len(chunk):,} of {total:,} bytes")
            if at + len(chunk) == total and file.read(1):  # a checksum stands at the end
                raise UserError(f"{what}: {path} goes on after the {total:,} bytes that it should have")
            yield np.frombuffer(chunk, np.uint8).reshape(-1, *shape)


def checked(labels: np.ndarray, classes: int, path: Path, what: str) -> np.ndarray:
    """Labels as whole numbers. Raises UserError for one that is no class."""
    wrong = np.flatnonzero(labels >= classes)
    if len(wrong):
        raise UserError(
            f"{what}: {path}: the label of image {wrong[0]} (from 0) is {labels[wrong[0]]}; it must be below {classes}"
        )
    return labels.astype(np.int64)


def find(source: Source, name: str) -> Path:
    """The file of this name, or of this name and `.gz`, in the folder of a data set. Raises UserError."""
    folder = INSTALLED / source.name if source.path is None else inputs.folder(source.path, f"{source.what}: ")
    for path in (folder / name, folder / f"{name}.gz"):
        if os.path.lexists(path):
            return path
    raise UserError(f"{source.what}: no {name} in {folder}; {ADVICE[source.name]} as data={source.name}:FOLDER")
