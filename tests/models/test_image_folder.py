"""Images in class folders, decoded where they are used; against Pillow, which comes with torchvision."""

import os
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI
from PIL import Image

from outpace.benchmarks.problems import Setting, data_sets
from outpace.benchmarks.problems.data_sets import Share
from outpace.comm.errors import LocalError, UserError

WHAT = "--problem torch"


def load(path: Path, n: int = 1, split: str = "iid") -> list[Share]:
    """All workers' shares, in this process."""
    setting = Setting(MPI.COMM_SELF, range(n), n, split, 0, "float64", np)
    return data_sets.load(data_sets.parse(f"folder:{path}", WHAT, side=32), setting)


def save(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Shape (height, width, 3) or (height, width); the pixels as Pillow reads them again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture
def made(tmp_path: Path) -> dict[str, np.ndarray]:
    """By name, the pixels of images of noise in three classes: two of each for training, one held out."""
    rng = np.random.default_rng(0)
    pixels = {}
    for label in ("cat", "Dog", "ape"):
        for name in (f"train/{label}/1.png", f"train/{label}/0.JPEG", f"test/{label}/ä b.jpg"):
            pixels[name] = save(tmp_path / name, rng.integers(256, size=(32, 32, 3), dtype=np.uint8))
    return pixels


def damaged(path: Path, old: bytes) -> dict[str, bytes]:
    """By what is wrong with them: files that are no images."""
    return {"cut": old[: len(old) // 2], "empty": b"", "text": b"not an image at all", "zeros": bytes(len(old))}


@pytest.mark.parametrize(("n", "split"), [(1, "iid"), (2, "iid"), (3, "labels:classes=1")])
def test_every_image_is_one_workers_with_its_class(
    tmp_path: Path, made: dict[str, np.ndarray], n: int, split: str
) -> None:
    """Classes are sorted; what is no image, and what is hidden, is left alone."""
    (tmp_path / "train" / "cat" / "notes.txt").touch()
    (tmp_path / "train" / "cat" / "._1.png").touch()
    (tmp_path / "train" / "README.md").touch()
    (tmp_path / "train" / ".cache").mkdir()
    shares = load(tmp_path, n, split)
    classes = ["Dog", "ape", "cat"]
    for part, folder in (("train", "train"), ("held_out", "test")):
        found = [sample for share in shares for sample in zip(*getattr(share, part).take(slice(None)), strict=True)]
        assert {(image.tobytes(), int(label)) for image, label in found} == {
            (pixels.transpose(2, 0, 1).tobytes(), classes.index(name.split("/")[1]))
            for name, pixels in made.items()
            if name.startswith(folder)
        }
        assert len(found) == sum(name.startswith(folder) for name in made)
    assert {share.n_total for share in shares} == {6}
    if split != "iid":
        assert [share.label_counts.tolist() for share in shares] == [[2, 0, 0], [0, 2, 0], [0, 0, 2]]


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (20, 30), (32, 50), (33, 33)])
def test_other_sizes_are_scaled_and_the_middle_is_kept(tmp_path: Path, height: int, width: int) -> None:
    """As Pillow does it; grey and transparent images have three channels, too."""
    rng = np.random.default_rng(1)
    pixels = np.kron(rng.integers(256, size=(10, 10, 3)), np.ones((6, 6, 1))).astype(np.uint8)[:height, :width]
    save(tmp_path / "train/a/0.png", pixels)
    save(tmp_path / "train/a/1.png", pixels[:, :, 0])
    save(tmp_path / "val/a/0.png", np.concatenate([pixels, np.full((height, width, 1), 255, np.uint8)], axis=2))
    (share,) = load(tmp_path)
    scale = 32 / min(height, width)
    larger = Image.fromarray(pixels).resize((int(width * scale), int(height * scale)), Image.Resampling.BILINEAR)
    left, top = round((larger.width - 32) / 2), round((larger.height - 32) / 2)
    expected = np.asarray(larger.crop((left, top, left + 32, top + 32))).transpose(2, 0, 1)
    (colour, grey), _ = share.train.take(slice(None))
    np.testing.assert_array_equal(colour, expected)
    np.testing.assert_array_equal(grey, np.repeat(expected[:1], 3, axis=0))
    np.testing.assert_array_equal(share.held_out.take(slice(None))[0][0], expected)


def test_a_damaged_image_is_named_when_it_is_used(tmp_path: Path, made: dict[str, np.ndarray]) -> None:
    """And not before: nobody reads all images to begin with."""
    path = tmp_path / "train/cat/1.png"
    old = path.read_bytes()
    for contents in damaged(path, old).values():
        path.write_bytes(contents)
        (share,) = load(tmp_path)
        share.train.take(np.arange(5))  # sorted: the last one is damaged
        with pytest.raises(LocalError, match=f"^{WHAT}: cannot read {path}: it is damaged, or no image$"):
            share.train.take(np.array([0, 5]))
    path.unlink()
    with pytest.raises(LocalError, match=f"^{WHAT}: cannot read {path}: no such file$"):
        share.train.take(np.array([5]))
    os.mkfifo(path)
    with pytest.raises(LocalError, match=f"^{WHAT}: cannot read {path}: it is a pipe, not a regular file$"):
        share.train.take(np.array([5]))


def test_folders_that_are_no_such_data_set(tmp_path: Path, made: dict[str, np.ndarray]) -> None:
    def refused(reason: str) -> None:
        with pytest.raises(UserError, match=f"^{WHAT}: {reason}"):
            load(tmp_path)

    (tmp_path / "train/zebra").mkdir()
    refused(f"{tmp_path}/train/zebra is empty: no image")
    (tmp_path / "train/zebra/0.txt").touch()
    refused(f"{tmp_path}/train/zebra is empty: no image \\(.jpg, .jpeg, .png, .webp\\) is in it")
    save(tmp_path / "train/zebra/0.png", np.zeros((4, 4, 3), np.uint8))
    load(tmp_path)  # no zebra is held out
    (tmp_path / "train/zebra").rename(tmp_path / "test/zebra")
    refused(f"{tmp_path}/test/zebra is no class: there is no {tmp_path}/train/zebra")
    (tmp_path / "test").rename(tmp_path / "valid")
    refused(f"{tmp_path} has no folder val or test beside train")
    (tmp_path / "val").mkdir()
    refused(f"{tmp_path}/val has no folders of images")
    (tmp_path / "train").rename(tmp_path / "training")
    refused(f"cannot read {tmp_path}/train: No such file or directory")
    (tmp_path / "train").touch()
    refused(f"cannot read {tmp_path}/train: Not a directory")
