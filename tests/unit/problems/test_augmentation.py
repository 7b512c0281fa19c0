"""Augmentation against a loop over images, and what it draws."""

import re

import numpy as np
import pytest

from outpace.benchmarks.problems import augmentation
from outpace.comm.errors import UserError
from outpace.comm.streams import AUGMENTATION

WHAT = "--problem torch"
IMAGES = np.random.default_rng(0).integers(1, 256, size=(40, 3, 10, 8), dtype=np.uint8)  # none of it black


def by_loop(images: np.ndarray, padding: int, flip: bool, seed: int, worker: int, step: int) -> np.ndarray:
    """Pixel by pixel, from the same numbers."""
    rng = np.random.default_rng([AUGMENTATION, seed, worker, step])
    b, _, height, width = images.shape
    mirrored = rng.random(b) < 0.5
    down, right = rng.integers(2 * padding + 1, size=(2, b))
    out = np.zeros_like(images)
    for i in range(b):
        for r in range(height):
            for c in range(width):
                row = r + down[i] - padding
                column = (width - 1 - c if flip and mirrored[i] else c) + right[i] - padding
                if 0 <= row < height and 0 <= column < width:
                    out[i, :, r, c] = images[i, :, row, column]
    return out


@pytest.mark.parametrize(("text", "padding", "flip"), [("crop3", 3, False), ("flip", 0, True), ("crop4+flip", 4, True)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_images_are_those_of_a_loop(text: str, padding: int, flip: bool, dtype: str) -> None:
    images = IMAGES.astype(dtype)
    before = images.copy()
    seen = augmentation.parse(text, WHAT)(images, 7, 2, 31)
    np.testing.assert_array_equal(seen, by_loop(images, padding, flip, 7, 2, 31))
    assert seen.dtype == dtype
    np.testing.assert_array_equal(images, before)


def test_a_batch_is_its_seeds_its_workers_and_its_steps_alone() -> None:
    augment = augmentation.parse("crop4+flip", WHAT)
    first = augment(IMAGES, 7, 2, 31)
    np.testing.assert_array_equal(augment(IMAGES, 7, 2, 31), first)
    for other in ((8, 2, 31), (7, 3, 31), (7, 2, 32)):
        assert (augment(IMAGES, *other) != first).any()


def test_every_place_is_as_likely_and_half_are_mirrored() -> None:
    """One white pixel in the middle: where it is afterwards, 81 places, by a chi-squared far below its 1e-6 quantile of
    157; and left and right of a half-white image."""
    count = 20_000
    dot = np.zeros((count, 1, 9, 9), np.uint8)
    dot[:, :, 4, 4] = 1
    places = augmentation.parse("crop4", WHAT)(dot, 0, 0, 0)[:, 0].sum(axis=0, dtype=int)
    assert places.sum() == count
    assert ((places - count / 81) ** 2 / (count / 81)).sum() < 157
    half = np.zeros((count, 1, 2, 2), np.uint8)
    half[..., 0] = 1
    mirrored = augmentation.parse("flip", WHAT)(half, 0, 0, 0)[:, 0, 0, 1].sum()
    assert abs(mirrored - count / 2) < 4.9 * np.sqrt(count) / 2


@pytest.mark.parametrize(
    "text", ["", "crop", "crop0", "crop-1", "crop4.5", "crop4,flip", "crop4flip", "flip+flip", "x"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(
        UserError, match=f"augment is '{re.escape(text)}'; it must be cropPIXELS, flip or both, as crop4"
    ):
        augmentation.parse(text, WHAT)


def test_data_that_it_does_not_fit() -> None:
    augment = augmentation.parse("crop8", WHAT)
    augment.check((1, 9, 9), WHAT)
    with pytest.raises(UserError, match="augment is crop8; the images have 8 pixels a side"):
        augment.check((1, 9, 8), WHAT)
    with pytest.raises(UserError, match="augment is for images"):
        augment.check((128,), WHAT)
