"""What a gradient does between its matrix products, on NumPy arrays; `layers_gpu` has the same as fused kernels.

Activations h and logits z have shape (rows, columns) and are overwritten; biases b have shape (columns,).
"""

import sys
from types import ModuleType
from typing import Any

import numpy as np


def kernels(xp: ModuleType) -> ModuleType:
    """The module with the functions below for arrays of xp, numpy or cupy."""
    if xp is np:
        return sys.modules[__name__]
    import outpace.benchmarks.problems.layers_gpu as gpu

    return gpu


def bias_relu(h: Any, b: Any) -> None:
    """h <- max(h + b, 0)"""
    h += b
    np.maximum(h, 0, out=h)


def relu_backward(dh: Any, h: Any) -> None:
    """dh <- dh where h > 0, else 0"""
    dh *= h > 0


def softmax_cross_entropy(z: Any, b: Any, y: Any) -> None:
    """z <- (softmax(z + b) - onehot(y)) / rows: the gradient of the mean cross-entropy of labels y by the logits."""
    z += b
    z -= z.max(axis=1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=1, keepdims=True)
    z[np.arange(len(y)), y] -= 1
    z /= len(y)
