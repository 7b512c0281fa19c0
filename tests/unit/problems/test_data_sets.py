"""Data sets in files: what is read is what stands there, and every worker has its share and no more."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from outpace.benchmarks.problems import Setting, data_sets, digits, image_files
from outpace.benchmarks.problems.data_sets import Share
from outpace.comm.errors import UserError

WHAT = "--problem torch"
INSTALLED = image_files.INSTALLED / "fashion-mnist"
installed = pytest.mark.skipif(not INSTALLED.exists(), reason="Debian's package dataset-fashion-mnist is not installed")


def load(data: str, n: int = 1, split: str = "iid", seed: int = 0) -> list[Share]:
    """All workers' shares, in this process."""
    return data_sets.load(data_sets.parse(data, WHAT), Setting(MPI.COMM_SELF, range(n), n, split, seed, "float64", np))


def idx(items: np.ndarray) -> bytes:
    """As the data sets' authors describe the format."""
    return struct.pack(f">HBB{items.ndim}I", 0, 8, items.ndim, *items.shape) + items.astype(np.uint8).tobytes()


@pytest.fixture
def made() -> dict[str, np.ndarray]:
    """Images of noise, 3,000 for training and 700 held out: more than are read at a time."""
    rng = np.random.default_rng(1)
    found = {}
    for name, count in (("train", 3000), ("t10k", 700)):
        found[f"{name}-images-idx3-ubyte"] = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
        found[f"{name}-labels-idx1-ubyte"] = rng.integers(10, size=count, dtype=np.uint8)
    return found


@pytest.fixture
def folder(tmp_path: Path, made: dict[str, np.ndarray]) -> Path:
    """Two files plain, two compressed."""
    for name, items in made.items():
        path, pack = (
            (tmp_path / name, bytes)
            if "train-images" in name or "t10k-l" in name
            else (tmp_path / f"{name}.gz", gzip.compress)
        )
        path.write_bytes(pack(idx(items)))
    return tmp_path


def assert_samples_are(shares: list[Share], images: np.ndarray, labels: np.ndarray, part: str) -> None:
    """Each image once, with its label: images of noise are known by their bytes."""
    found = {}
    for share in shares:
        inputs, targets = getattr(share, part).take(slice(None))
        assert (inputs.dtype, targets.dtype) == (np.uint8, np.int64)
        assert len(inputs) == len(targets) == len(getattr(share, part))
        found |= {image.tobytes(): int(label) for image, label in zip(inputs, targets, strict=True)}
    assert found == {image.tobytes(): label for image, label in zip(images, labels, strict=True)}


@pytest.mark.parametrize(
    ("n", "split"), [(1, "iid"), (3, "iid"), (4, "labels:classes=3"), (3, "dirichlet:alpha=1"), (5, "size:ratio=9")]
)
def test_every_image_of_the_files_is_one_workers(folder: Path, made: dict[str, np.ndarray], n: int, split: str) -> None:
    shares = load(f"mnist:{folder}", n, split)
    for part, name in (("train", "train"), ("held_out", "t10k")):
        assert_samples_are(shares, made[f"{name}-images-idx3-ubyte"], made[f"{name}-labels-idx1-ubyte"], part)
    assert {share.n_total for share in shares} == {3000}
    for i, share in enumerate(shares):
        assert share.label_counts.tolist() == np.bincount(share.train.labels, minlength=10).tolist()
        if split.startswith("labels"):
            assert set(np.flatnonzero(share.label_counts)) == {(3 * i + j) % 10 for j in range(3)}
    assert np.ptp([len(share.held_out) for share in shares]) <= 1


def test_a_batch_is_the_samples_that_were_asked_for(folder: Path, made: dict[str, np.ndarray]) -> None:
    (share,) = load(f"mnist:{folder}")
    pixels, labels = share.train.take(np.array([2999, 0, 0, 1400]))
    np.testing.assert_array_equal(pixels[:, 0], made["train-images-idx3-ubyte"][[2999, 0, 0, 1400]])
    np.testing.assert_array_equal(labels, made["train-labels-idx1-ubyte"][[2999, 0, 0, 1400]])
    assert pixels.shape == (4, *share.about.shape)


@installed
def test_fashion_mnist_is_the_real_one() -> None:
    """Ten classes of 6,000 and of 1,000 images; mean and deviation are those of the training images."""
    (share,) = load("fashion-mnist")
    assert share.label_counts.tolist() == [6000] * 10
    assert np.bincount(share.held_out.labels).tolist() == [1000] * 10
    counts = np.bincount(share.train.records.ravel(), minlength=256)
    levels = np.arange(256) / share.about.white
    mean = counts @ levels / counts.sum()
    assert share.about.mean == (pytest.approx(mean, abs=5e-5),)
    assert share.about.std == (pytest.approx(np.sqrt(counts @ (levels - mean) ** 2 / counts.sum()), abs=5e-5),)
    some = share.about.normalised(share.train.take(slice(1000))[0], "float32")
    assert some.dtype == np.float32
    assert abs(some.mean()) < 0.05
    assert abs(some.std() - 1) < 0.05


@pytest.mark.parametrize("split", ["iid", "labels:classes=4"])
def test_digits_are_those_of_the_problem_digits(split: str) -> None:
    """Sample by sample, worker by worker, so that models of both can be compared."""
    setting = Setting(MPI.COMM_SELF, range(3), 3, split, 5, "float64", np)
    for share, built_in in zip(load("digits", 3, split, 5), digits.build(digits.Spec(), setting), strict=True):
        for samples, X, y in (
            (share.train, built_in.X, built_in.y),
            (share.held_out, built_in.X_held_out, built_in.y_held_out),
        ):
            pixels, labels = samples.take(slice(None))
            np.testing.assert_array_equal(share.about.normalised(pixels, "float64").reshape(len(X), 64), X)
            np.testing.assert_array_equal(labels, y)


IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"  # the plain files of `folder`


def change(offset: int, value: int) -> Callable[[bytes], bytes]:
    """A byte set."""
    return lambda data: data[:offset] + bytes([value]) + data[offset + 1 :]


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        (IMAGES, lambda data: data[:-1], r"is cut off: it ends after 2,352,015 of 2,352,016 bytes"),
        (IMAGES, lambda data: data[:1_000_000], r"is cut off: it ends after 1,000,000 of 2,352,016 bytes"),
        (IMAGES, lambda data: data[:9], r"is cut off: an IDX file begins with 16 bytes, it has 9"),
        (LABELS, lambda data: b"", r"is cut off: an IDX file begins with 8 bytes, it has 0"),
        (IMAGES, lambda data: data + b"x", r"goes on after the 2,352,016 bytes that it should have"),
        (IMAGES, change(2, 0x0D), r"is no IDX file of images: it begins with 0x00000d03, not 0x00000803"),
        (LABELS, change(3, 3), r"is no IDX file of labels: it begins with 0x00000803, not 0x00000801"),
        (IMAGES, lambda data: b"P5 28 28 255 and more", r"is no IDX file of images: it begins with 0x50352032"),
        (IMAGES, change(15, 27), r"has images of 28 x 27 pixels; they must be of 28 x 28"),
        (IMAGES, change(7, 0xB7), r"has 2,999 images, .* has 3,000 labels"),
        (IMAGES, change(4, 0xFF), r"has 4,278,193,080 images, .* has 3,000 labels"),
        (LABELS, lambda data: idx(np.zeros(0)), r"holds no data"),
        (LABELS, change(8 + 699, 10), r"the label of image 699 \(from 0\) is 10; it must be below 10"),
        (IMAGES, lambda data: gzip.compress(data)[:-3], r"cannot read .*end-of-stream"),
        (IMAGES, lambda data: gzip.compress(data)[:5000], r"cannot read .*end-of-stream"),
        (IMAGES, lambda data: change(-6, 1)(gzip.compress(data))[:-1], r"cannot read .*end-of-stream"),
        (IMAGES, lambda data: change(60_000, 1)(gzip.compress(data)), r"cannot read .*(CRC|invalid|decompress)"),
        (LABELS, lambda data: change(2, 0)(gzip.compress(data)), r"cannot read .*: Unknown compression method"),
    ],
)
def test_damaged_files(folder: Path, name: str, damage: Callable[[bytes], bytes], reason: str) -> None:
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    with pytest.raises(UserError, match=f"^{WHAT}: .*{reason}") as error:
        load(f"mnist:{folder}", 2)
    assert str(folder / name) in str(error.value)
    assert "\n" not in str(error.value)
