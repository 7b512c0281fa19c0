"""Augmentation: each image of a batch is moved and mirrored at random, anew in every step.

`crop4` pads an image with 4 black pixels on every side and cuts one of its size out of that, `flip` mirrors it left to
right with probability 1/2; `crop4+flip` does both, as the ResNet paper does with CIFAR-10 (arXiv:1512.03385, section
4.2). What is drawn depends on the seed, the worker and its step alone, so every program meets the same images.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from outpace.comm.errors import UserError
from outpace.comm.streams import AUGMENTATION


@dataclass(frozen=True)
class Augmentation:
    padding: int = 0  # pixels on each side before the crop
    flip: bool = False

    def check(self, shape: tuple[int, ...], what: str) -> None:
        """Raise UserError for inputs of a shape that is no image's (channels, height, width), or too small."""
        if len(shape) != 3:
            raise UserError(f"{what}: augment is for images")
        if self.padding >= (side := min(shape[1:])):
            raise UserError(f"{what}: augment is crop{self.padding}; the images have {side} pixels a side")

    def __call__(self, images: np.ndarray, seed: int, worker: int, step: int) -> np.ndarray:
        """The batch, shape (b, channels, height, width), as this worker sees it in this step; a new array."""
        rng = np.random.default_rng([AUGMENTATION, seed, worker, step])
        count, _, height, width = images.shape
        mirrored = rng.random(count) < 0.5
        down, right = rng.integers(2 * self.padding + 1, size=(2, count))
        edge = (self.padding, self.padding)
        padded = np.pad(images, ((0, 0), (0, 0), edge, edge))
        moved = sliding_window_view(padded, (height, width), axis=(2, 3))[np.arange(count), :, down, right]
        if self.flip:
            moved[mirrored] = moved[mirrored, :, :, ::-1]
        return moved


def parse(text: str, what: str) -> Augmentation:
    """Raises UserError, which `what`, the flag's name, begins.

    >>> parse("crop4+flip", "--problem torch")
    Augmentation(padding=4, flip=True)
    """
    form = re.fullmatch(r"crop([1-9]\d{0,3})(\+flip)?|flip", text)
    if not form:
        raise UserError(f"{what}: augment is '{text}'; it must be cropPIXELS, flip or both, as crop4+flip")
    return Augmentation(int(form[1] or 0), text.endswith("flip"))
