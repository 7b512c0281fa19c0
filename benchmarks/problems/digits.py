"""UCI handwritten digits: 1,797 real images of 8 x 8 pixels, ten classes, a fifth of them held out.

`hidden=0` is softmax regression, otherwise a multilayer perceptron with one hidden layer of rectified linear
units; the loss is the mean cross-entropy. The images ship with scikit-learn, nothing is downloaded.
"""

import importlib.util
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from outpace.benchmarks.problems import splits
from outpace.benchmarks.problems.layers import kernels
from outpace.benchmarks.problems.problem import Problem, Setting
from outpace.benchmarks.problems.size import Size
from outpace.comm import agreement
from outpace.comm.errors import UserError
from outpace.comm.spec import NonNegativeInt
from outpace.comm.streams import INIT, SPLIT

IMAGES, PIXELS, CLASSES, WHITE = 1797, 64, 10, 16.0  # the images hold whole numbers from 0 to 16
HELD_OUT = 5  # every fifth image of the shuffled set
VIEWED: Final = 4  # buffers whose views are kept: a program's model, its gradient, and one of each more


@dataclass(frozen=True, kw_only=True)
class Spec:
    hidden: NonNegativeInt = 64  # hidden units; 0 is softmax regression

    def size(self) -> Size:
        outer = (self.hidden or PIXELS) * CLASSES + CLASSES
        inner = self.hidden * (PIXELS + 1)
        train = IMAGES - math.ceil(IMAGES / HELD_OUT)
        return Size(train, inner + outer, CLASSES, row=PIXELS, pass_=2 * self.hidden)


@dataclass(frozen=True)
class Images:
    """Pixels in [0, 1], shape (m, 64), and their labels, shape (m,)."""

    pixels: np.ndarray
    labels: np.ndarray

    def __getitem__(self, index: np.ndarray) -> "Images":
        return Images(self.pixels[index], self.labels[index])


class Digits(Problem):
    """One worker's images and its part of the held-out ones.

    The flat model holds W_1 (64, hidden), b_1, W_2 (hidden, 10), b_2; softmax regression has only the last two,
    with W_2 of shape (64, 10).
    """

    shapes: list[tuple[int, ...]]

    def __init__(self, spec: Spec, setting: Setting, train: Images, held_out: Images, n_total: int) -> None:
        xp = self.xp = setting.xp
        self._fused = kernels(xp)
        self.hidden, self.seed = spec.hidden, setting.seed
        self.dtype = np.dtype(setting.dtype)
        self.X, self.y = xp.asarray(train.pixels.astype(self.dtype)), xp.asarray(train.labels)
        self.X_held_out, self.y_held_out = xp.asarray(held_out.pixels), xp.asarray(held_out.labels)
        self.n_samples, self.n_total = len(train.labels), n_total
        self.label_counts = np.bincount(train.labels, minlength=CLASSES)
        fan_in = spec.hidden or PIXELS
        self.shapes = [(fan_in, CLASSES), (CLASSES,)]
        if spec.hidden:
            self.shapes = [(PIXELS, spec.hidden), (spec.hidden,), *self.shapes]
        sizes = [math.prod(shape) for shape in self.shapes]
        stops = list(itertools.accumulate(sizes))
        self.dim = stops[-1]
        self._parts = [slice(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]
        self._views: dict[int, tuple[Any, list[Any]]] = {}  # by the id of a buffer: it, and its layers

    def x0(self) -> Any:
        """Softmax regression starts at zero, the perceptron at He's initialisation, biases zero."""
        rng = np.random.default_rng([INIT, self.seed])
        x = np.zeros(self.dim, dtype=self.dtype)
        if self.hidden:
            for weights in self._layers(x)[::2]:
                weights[:] = rng.normal(0.0, np.sqrt(2 / len(weights)), weights.shape)
        return self.xp.asarray(x)

    def loss(self, x: Any) -> float:
        return float(self._cross_entropies(self._forward(x, self.X), self.y).mean())

    def gradient(self, x: Any, batch: np.ndarray | None, out: Any) -> None:
        xp = self.xp
        if batch is not None:
            batch = xp.asarray(batch)  # on a device, once
        X, y = (self.X, self.y) if batch is None else (self.X[batch], self.y[batch])
        layers = self._layers(x)
        p, h = self._products(layers, X)
        self._fused.softmax_cross_entropy(p, layers[-1], y)  # d loss / d logits
        *first, dW_2, db_2 = self._layers(out)
        xp.matmul(h.T, p, out=dW_2)
        p.sum(axis=0, out=db_2)
        if self.hidden:
            dW_1, db_1 = first
            dh = p @ layers[2].T
            self._fused.relu_backward(dh, h)
            xp.matmul(X.T, dh, out=dW_1)
            dh.sum(axis=0, out=db_1)

    def held_out(self, x: Any) -> tuple[float, int, int]:
        logits, y = self._forward(x, self.X_held_out), self.y_held_out
        correct = int((logits.argmax(axis=1) == y).sum())
        return float(self._cross_entropies(logits, y).sum()), correct, len(y)

    def _cross_entropies(self, logits: Any, y: Any) -> Any:
        """Cross-entropy of each label, shape (b,), by its logits (b, 10), which are overwritten."""
        logits -= logits.max(axis=1, keepdims=True)
        return self.xp.log(self.xp.exp(logits).sum(axis=1)) - logits[self.xp.arange(len(y)), y]

    def _forward(self, x: Any, X: Any) -> Any:
        """Logits (b, 10)."""
        layers = self._layers(x)
        logits, _ = self._products(layers, X)
        logits += layers[-1]
        return logits

    def _products(self, layers: list[Any], X: Any) -> tuple[Any, Any]:
        """Logits without their bias (b, 10) and the last layer's inputs (b, hidden or 64)."""
        *first, W_2, _ = layers
        h = X
        if self.hidden:
            W_1, b_1 = first
            h = X @ W_1
            self._fused.bias_relu(h, b_1)
        return h @ W_2, h

    def _layers(self, flat: Any) -> list[Any]:
        """Views of the flat model, layer by layer; made once for a buffer that a program uses again and again.

        What is kept holds its buffer, so no other one has its id meanwhile."""
        kept = self._views.get(id(flat))
        if kept is None:
            views = [flat[part].reshape(shape) for part, shape in zip(self._parts, self.shapes, strict=True)]
            while len(self._views) >= VIEWED:
                del self._views[next(iter(self._views))]  # the oldest
            kept = self._views[id(flat)] = flat, views
        return kept[1]


def build(spec: Spec, setting: Setting) -> list[Digits]:
    """The shares of `setting.workers`; rank 0 loads the images and sends every process its part; collective."""
    comm = setting.comm
    held = comm.gather(list(setting.workers)) or []  # both empty but on rank 0
    parts = agreement.on_root(comm, lambda: _deal(setting)) or []
    mine = comm.scatter([[parts[worker] for worker in workers] for workers in held] or None)
    n_total = comm.allreduce(sum(len(train.labels) for train, _ in mine))
    return [Digits(spec, setting, train, held_out, n_total) for train, held_out in mine]


def _deal(setting: Setting) -> list[tuple[Images, Images]]:
    """Per worker its training images and its part of the held-out ones."""
    train, held_out = images(setting.seed)
    shares = splits.deal(setting.split, train.labels, setting.n, setting.seed)
    rest = np.array_split(np.arange(len(held_out.labels)), setting.n)
    return [(train[share], held_out[part]) for share, part in zip(shares, rest, strict=True)]


def images(seed: int) -> tuple[Images, Images]:
    """The images for training, and those held out."""
    data = np.loadtxt(_file(), delimiter=",")
    pixels, labels = data[:, :-1], data[:, -1]
    every = Images(pixels / WHITE, labels.astype(np.int64))
    order = np.random.default_rng([SPLIT, seed, 0]).permutation(len(labels))
    return every[np.delete(order, np.s_[::HELD_OUT])], every[order[::HELD_OUT]]


def _file() -> Path:
    """The images as scikit-learn ships them. To import it takes a second, to read its file 20 ms. Raises UserError."""
    found = importlib.util.find_spec("sklearn")
    folder = Path(found.origin).parent if found and found.origin else Path("sklearn")
    path = folder / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise UserError(f"--problem digits: the images come with scikit-learn, and there is no {path}")
    return path
