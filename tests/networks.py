"""What tests of networks share: the suite's own perceptron in torch's layout, and a small part of Fashion-MNIST."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from outpace.benchmarks.problems.image_files import INSTALLED

FASHION = INSTALLED / "fashion-mnist"


def as_in_torch(x: np.ndarray, hidden: int = 64) -> np.ndarray:
    """A flat model or gradient of the problem `digits` as torch's perceptron has it: its matrices transposed."""
    W_1, b_1, W_2, b_2 = np.split(x, np.cumsum([64 * hidden, hidden, hidden * 10]))
    return np.concatenate([W_1.reshape(64, hidden).T.ravel(), b_1, W_2.reshape(hidden, 10).T.ravel(), b_2])


def some_of_fashion_mnist(folder: Path, train: int, held_out: int) -> str:
    """The first images of the real ones, in files of their own; the `data` of a SPEC. Skips where there are none."""
    if not FASHION.exists():
        pytest.skip("no Fashion-MNIST here: Debian's package dataset-fashion-mnist has it")
    for part, count in (("train", train), ("t10k", held_out)):
        for kind, header, each in (("images-idx3", 16, 784), ("labels-idx1", 8, 1)):
            (path,) = FASHION.glob(f"{part}-{kind}-ubyte*")
            with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
                start, rows = file.read(header), file.read(count * each)
            file_of_some = start[:4] + count.to_bytes(4, "big") + start[8:] + rows
            (folder / f"{part}-{kind}-ubyte").write_bytes(file_of_some)
    return f"fashion-mnist:{folder}"
