"""Data sets in files: what is read is what stands there, and every worker has its share and no more."""

import gzip
import importlib.util
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from outpace.benchmarks.problems import Setting, data_sets, digits, image_files
from outpace.benchmarks.problems.data_sets import Share
from outpace.comm import memory
from outpace.comm.errors import UserError

WHAT = "--problem torch"
INSTALLED = image_files.INSTALLED / "fashion-mnist"
installed = pytest.mark.skipif(not INSTALLED.exists(), reason="Debian's package dataset-fashion-mnist is not installed")


def load(data: str, n: int = 1, split: str = "iid", seed: int = 0, **options: int) -> list[Share]:
    """All workers' shares, in this process."""
    return data_sets.load(
        data_sets.parse(data, WHAT, **options), Setting(MPI.COMM_SELF, range(n), n, split, seed, "float64", np)
    )


def idx(items: np.ndarray) -> bytes:
    """As the data sets' authors describe the format."""
    return struct.pack(f">HBB{items.ndim}I", 0, 8, items.ndim, *items.shape) + items.astype(np.uint8).tobytes()


@pytest.fixture
def made() -> dict[str, np.ndarray]:
    """Images of noise, 6,000 for training and 700 held out: more than are read at a time."""
    rng = np.random.default_rng(1)
    found = {}
    for name, count in (("train", 6000), ("t10k", 700)):
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
    assert {share.n_total for share in shares} == {6000}
    for i, share in enumerate(shares):
        assert share.label_counts.tolist() == np.bincount(share.train.labels, minlength=10).tolist()
        if split.startswith("labels"):
            assert set(np.flatnonzero(share.label_counts)) == {(3 * i + j) % 10 for j in range(3)}
    assert np.ptp([len(share.held_out) for share in shares]) <= 1


def test_a_batch_is_the_samples_that_were_asked_for(folder: Path, made: dict[str, np.ndarray]) -> None:
    (share,) = load(f"mnist:{folder}")
    pixels, labels = share.train.take(np.array([5999, 0, 0, 1400]))
    np.testing.assert_array_equal(pixels[:, 0], made["train-images-idx3-ubyte"][[5999, 0, 0, 1400]])
    np.testing.assert_array_equal(labels, made["train-labels-idx1-ubyte"][[5999, 0, 0, 1400]])
    assert pixels.shape == (4, *share.about.shape)


@installed
def test_fashion_mnist_is_the_real_one() -> None:
    """Ten classes of 6,000 and of 1,000 images; mean and deviation are those of the training images."""
    (share,) = load("fashion-mnist")
    assert share.label_counts.tolist() == [6000] * 10
    assert np.bincount(share.held_out.labels).tolist() == [1000] * 10
    pixels = share.train.records
    mean = pixels.mean(dtype=np.float64) / 255
    square = np.square(pixels, dtype=np.uint16).sum(dtype=np.int64) / pixels.size / 255**2
    assert share.about.mean == (pytest.approx(mean, abs=5e-5),)
    assert share.about.std == (pytest.approx(np.sqrt(square - mean**2), abs=5e-5),)
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
        (IMAGES, lambda data: data[:-1], r"is cut off: it ends after 4,704,015 of 4,704,016 bytes"),
        (IMAGES, lambda data: data[:4_500_000], r"is cut off: it ends after 4,500,000 of 4,704,016 bytes"),
        (IMAGES, lambda data: data[:9], r"is cut off: an IDX file begins with 16 bytes, it has 9"),
        (LABELS, lambda data: b"", r"is cut off: an IDX file begins with 8 bytes, it has 0"),
        (IMAGES, lambda data: data + b"x", r"goes on after the 4,704,016 bytes that it should have"),
        (IMAGES, change(2, 0x0D), r"is no IDX file of images: it begins with 0x00000d03, not 0x00000803"),
        (LABELS, change(3, 3), r"is no IDX file of labels: it begins with 0x00000803, not 0x00000801"),
        (IMAGES, lambda data: b"P5 28 28 255 and more", r"is no IDX file of images: it begins with 0x50352032"),
        (IMAGES, change(15, 27), r"has images of 28 x 27 pixels; they must be of 28 x 28"),
        (IMAGES, change(7, 0x6F), r"has 5,999 images, .* has 6,000 labels"),
        (IMAGES, change(4, 0xFF), r"has 4,278,196,080 images, .* has 6,000 labels"),
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


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("imagenet", "unknown data 'imagenet'; allowed: digits, fashion-mnist"),
        ("digits:x", "data is 'digits:x'; it must be of the form digits$"),
        ("mnist:", r"data is 'mnist:'; it must be of the form mnist\[:FOLDER\]"),
        ("folder", "data is 'folder'; it must be of the form folder:FOLDER"),
        ("text:", "data is 'text:'; it must be of the form text:FILE"),
    ],
)
def test_bad_names(data: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"^{WHAT}: {reason}"):
        data_sets.parse(data, WHAT)


def test_options_of_other_data_sets_are_refused() -> None:
    assert data_sets.parse("folder:x", WHAT, side=32, context=None).side == 32
    with pytest.raises(UserError, match="data=text takes no side; data=folder does"):
        data_sets.parse("text:x", WHAT, side=32)
    with pytest.raises(UserError, match="data=digits takes no context; data=text does"):
        data_sets.parse("digits", WHAT, context=9)


@pytest.mark.parametrize(
    ("data", "files"),
    [
        ("mnist", "no train-images-idx3-ubyte in {}/mnist; name the folder of its four files as data=mnist:FOLDER"),
        (
            "fashion-mnist",
            "no train-images-.* in .*; install Debian's package dataset-fashion-mnist, or name the folder",
        ),
        (
            "cifar10",
            "no data_batch_1.bin in {}/cifar10; name the folder of the six .bin files .* as data=cifar10:FOLDER",
        ),
    ],
)
def test_missing_data_sets_say_what_to_put_where(
    data: str, files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nowhere, and in a folder that was named."""
    monkeypatch.setattr(image_files, "INSTALLED", tmp_path / "none")
    with pytest.raises(UserError, match=files.format(tmp_path / "none")):
        load(data)
    with pytest.raises(UserError, match=files.format(tmp_path).replace(f"/{data};", ";")):
        load(f"{data}:{tmp_path}")


def test_what_is_no_folder_and_what_is_no_file(folder: Path) -> None:
    """To open a pipe would wait for ever."""
    file = folder / IMAGES
    for path, reason in ((file, "it is a regular file, not a folder"), (folder / "none", "no such file")):
        with pytest.raises(UserError, match=f"cannot read {path}: {reason}"):
            load(f"mnist:{path}")
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError, match=f"cannot read {file}: it is a pipe, not a regular file"):
        load(f"mnist:{folder}")
    file.unlink()
    file.mkdir()
    with pytest.raises(UserError, match=f"cannot read {file}: it is a folder, not a regular file"):
        load(f"mnist:{folder}")
    file.rmdir()
    file.symlink_to("nowhere")
    with pytest.raises(UserError, match=f"cannot read {file}: no such file"):
        load(f"mnist:{folder}")


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_rank_takes_memory_for_its_share_only(tmp_path: Path, batches: Path, name: str) -> None:
    """Rank 0, too, which reads everything: 24 MB or 184 MB, of which it keeps a twentieth."""
    for part, count in (("train", 30_000), ("t10k", 600)):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(np.ones((count, 28, 28))))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 10))
    source = data_sets.parse(f"{name}:{tmp_path if name == 'mnist' else batches}", WHAT)
    setting = Setting(MPI.COMM_SELF, [5], 20, "iid", 0, "float64", np)
    tracemalloc.start()
    (share,) = data_sets.load(source, setting)
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(share.train) == share.n_total / 20
    nbytes = share.train.records.nbytes + share.held_out.records.nbytes
    assert kept < nbytes + 3e6  # what is imported on the way is counted
    assert most < nbytes + 1.5e7


def test_what_does_not_fit_into_memory_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "of_node", lambda: 2e6)
    with pytest.raises(UserError, match=r"data=mnist: it needs about 5.3 MB of memory; 2 MB are available"):
        load(f"mnist:{folder}")
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        path = folder / (name if (folder / name).exists() else f"{name}.gz")
        old = path.read_bytes() if path.suffix == "" else gzip.decompress(path.read_bytes())
        path.write_bytes(change(4, 0xFF)(old))
    with pytest.raises(UserError, match="with 4,278,196,080 images: it needs about 137 GB of memory; 2 MB are"):
        load(f"mnist:{folder}")


# CIFAR-10


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All black and of class 0, but for the first and the last image of each file."""
    folder = tmp_path_factory.mktemp("cifar10")
    rng = np.random.default_rng(3)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        with open(folder / name, "wb") as file:
            file.truncate(30_730_000)
            for at in (0, 9999 * 3073):
                file.seek(at)
                file.write(rng.integers(10, size=1, dtype=np.uint8).tobytes() + rng.bytes(3072))
    return folder


def test_cifar10_is_read_as_its_page_describes(batches: Path) -> None:
    """A byte for the label, then 32 x 32 bytes of red, green and blue each."""
    train = b"".join((batches / f"data_batch_{i}.bin").read_bytes() for i in range(1, 6))
    records = np.frombuffer(train, np.uint8).reshape(50_000, 3073)
    (share,) = load(f"cifar10:{batches}")
    assert (len(share.train), len(share.held_out)) == (50_000, 10_000)
    np.testing.assert_array_equal(share.train.labels, records[:, 0])
    np.testing.assert_array_equal(share.train.records[:, 2].reshape(-1, 1024), records[:, 2049:])
    assert share.train.records.shape[1:] == share.about.shape == (3, 32, 32)
    held_out = (batches / "test_batch.bin").read_bytes()
    assert share.held_out.records[9999].tobytes() == held_out[-3072:]


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("data_batch_5.bin", lambda data: data[:-1], "it ends after 30,729,999 of 30,730,000 bytes"),
        ("test_batch.bin", lambda data: data + b"xy", "goes on after the 30,730,000 bytes that it should have"),
        ("test_batch.bin", lambda data: b"", "it ends after 0 of 30,730,000 bytes"),
        ("data_batch_2.bin", change(3073 * 17, 10), r"the label of image 17 \(from 0\) is 10; it must be below 10"),
    ],
)
def test_damaged_batches(
    batches: Path, tmp_path: Path, name: str, damage: Callable[[bytes], bytes], reason: str
) -> None:
    for path in batches.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / name).unlink()
    (tmp_path / name).write_bytes(damage((batches / name).read_bytes()))
    with pytest.raises(UserError, match=f"^{WHAT}: {tmp_path / name}.*{reason}$"):
        load(f"cifar10:{tmp_path}")


# Text


def test_text_is_cut_into_sequences_whose_targets_are_the_next_bytes(tmp_path: Path) -> None:
    """More than is read at a time; the last tenth is held out, and no byte of a target is lost."""
    text = np.random.default_rng(2).bytes(5_000_000)
    (tmp_path / "book.txt").write_bytes(text)
    (tmp_path / "book.txt.gz").write_bytes(gzip.compress(text, 1))
    for name in ("book.txt", "book.txt.gz"):
        shares = load(f"text:{tmp_path / name}", 2, context=1000)
        for part, start, stop in (("train", 0, 4499), ("held_out", 4499, 4999)):
            pairs = [sample for share in shares for sample in zip(*getattr(share, part).take(slice(None)), strict=True)]
            found = {(inputs.tobytes(), targets.astype(np.uint8).tobytes()) for inputs, targets in pairs}
            assert found == {
                (text[1000 * j : 1000 * j + 1000], text[1000 * j + 1 : 1000 * j + 1001]) for j in range(start, stop)
            }
        assert shares[0].label_counts is None
        assert shares[0].n_total == 4499
    about = shares[0].about
    assert (about.classes, about.shape) == (256, (1000,))
    assert about.normalised(np.array([[255, 0]], np.uint8), "float32").tolist() == [[255, 0]]


def test_text_that_is_too_short_or_has_no_labels_to_split_by(tmp_path: Path) -> None:
    file = tmp_path / "short.txt"
    file.write_bytes(bytes(20))
    with pytest.raises(UserError, match=r"short.txt has 20 bytes; with context=10 it must have 21"):
        load(f"text:{file}", context=10)
    file.write_bytes(bytes(21))
    (share,) = load(f"text:{file}", context=10)
    assert (len(share.train), len(share.held_out)) == (1, 1)
    with pytest.raises(UserError, match="2 workers are too many for 1 samples"):
        load(f"text:{file}", 2, context=10)
    with pytest.raises(UserError, match="the data of this problem has no labels; take iid or size"):
        load(f"text:{file}", split="labels", context=10)
    with pytest.raises(UserError, match=f"cannot read {tmp_path}: it is a folder"):
        load(f"text:{tmp_path}")


# Folders: what is decoded is tested where torchvision is


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
def test_without_torchvision_one_line_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{WHAT}: data=folder needs torchvision to decode images"):
        load(f"folder:{tmp_path}")
    with pytest.raises(UserError, match="cannot read /nowhere: no such file"):
        load("folder:/nowhere")
