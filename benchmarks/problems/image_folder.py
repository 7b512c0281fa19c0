"""Images in folders as those of ImageNet: `train/CLASS/*` for training, `val/CLASS/*` or else `test/CLASS/*` held out.

The labels are the places of the classes in alphabetical order. The names of the images are dealt to the workers; who
has an image's name decodes it each time that it is used, and so must see the folder. Its shorter side is scaled to so
many pixels as are asked for, and the middle of the longer one is kept: an image of that size stays as it is.
"""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from outpace.benchmarks.problems.samples import About, Part, Samples, Source
from outpace.comm import inputs
from outpace.comm.errors import LocalError, UserError

TRAIN, HELD_OUT = "train", ("val", "test")
IMAGES: Final = (".jpg", ".jpeg", ".png", ".webp")
SIDE: Final = 224  # as the networks for ImageNet take it
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as torchvision's networks take them
MISSING: Final = "data=folder needs torchvision to decode images; it comes with the extra `torch`"


@dataclass
class Files(Samples):
    """Samples whose records are the names of images."""

    about: "Folder"

    def take(self, index: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        """As of other samples, but decoded anew. Raises LocalError for an image that cannot be."""
        assert self.labels is not None
        names = self.records[index]
        images = np.empty((len(names), *self.about.shape), np.uint8)
        for image, name in zip(images, names, strict=True):
            image[:] = self.about.decoded(os.fsdecode(name.tobytes().rstrip(b"\0")))
        return images, self.labels[index]


@dataclass(frozen=True, kw_only=True)
class Folder(About):
    root: Path
    what: str  # begins errors

    def samples(self, records: np.ndarray, labels: np.ndarray | None) -> Samples:
        return Files(records, labels, self)

    def decoded(self, name: str) -> np.ndarray:
        """The image of this name, uint8, shape (3, side, side)."""
        side = self.shape[-1]
        try:
            path = inputs.regular(self.root / name, f"{self.what}: ")
            from torchvision.datasets.folder import pil_loader
            from torchvision.transforms.functional import center_crop, resize

            pixels: np.ndarray = np.asarray(center_crop(resize(pil_loader(path), [side]), [side]))
        except UserError as error:
            raise LocalError(str(error)) from None
        except ImportError:
            raise LocalError(f"{self.what}: {MISSING}") from None
        except MemoryError:
            raise
        except Exception as error:  # every format has errors of its own for damaged files
            reason = getattr(error, "strerror", None) or "it is damaged, or no image"
            raise LocalError(f"{self.what}: cannot read {path}: {reason}") from None
        return pixels.transpose(2, 0, 1)


def read(source: Source, seed: int) -> tuple[About, Part, Part]:
    """The names of the images, on rank 0. Raises UserError."""
    root = inputs.folder(source.path or "", f"{source.what}: ")
    if importlib.util.find_spec("torchvision") is None:
        raise UserError(f"{source.what}: {MISSING}")
    held_out = next((name for name in HELD_OUT if (root / name).is_dir()), None)
    if held_out is None:
        raise UserError(f"{source.what}: {root} has no folder {' or '.join(HELD_OUT)} beside {TRAIN}")
    try:
        classes = _folders(root / TRAIN)
        train, rest = (_part(root, name, classes, source.what) for name in (TRAIN, held_out))
    except OSError as error:
        raise UserError(f"{source.what}: cannot read {error.filename}: {error.strerror}") from None
    side = source.side or SIDE
    about = Folder(len(classes), (3, side, side), mean=MEAN, std=STD, root=root, what=source.what)
    return about, train, rest


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _part(root: Path, part: str, classes: list[str], what: str) -> Part:
    """The images in a folder of class folders. Raises UserError, OSError."""
    names, labels = list[bytes](), list[int]()
    found = _folders(root / part)
    if unknown := sorted({*found} - {*classes}):
        raise UserError(f"{what}: {root / part / unknown[0]} is no class: there is no {root / TRAIN / unknown[0]}")
    for name in found:
        with os.scandir(root / part / name) as entries:
            images = sorted(entry.name for entry in entries if _is_image(entry.name))
        if not images:
            raise UserError(f"{what}: {root / part / name} is empty: no image ({', '.join(IMAGES)}) is in it")
        names += [os.fsencode(f"{part}/{name}/{image}") for image in images]
        labels += [classes.index(name)] * len(images)
    if not names:
        raise UserError(f"{what}: {root / part} has no folders of images")
    records = np.array(names)
    rows = records.view(np.uint8).reshape(len(names), -1)
    return Part(len(rows), rows.shape[1:], np.array(labels), iter([rows]))


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGES) and not name.startswith(".")
