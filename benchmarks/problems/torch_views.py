"""A torch module whose parameters lie in a flat vector, and their gradients in another."""

from typing import Any

import numpy as np
import torch
from torch import nn


class Views:
    """The trainable parameters of a module, one after the other, each in C order: `dim` numbers.

    `at(x, out)` makes them views of `x`, and their gradients views of `out`, so nothing is copied on either way. The
    vectors seen last are kept, and no others: a program that comes with the same two again has nothing made anew.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        named = [(name, part) for name, part in module.named_parameters() if part.requires_grad]
        self.shapes = {name: tuple(part.shape) for name, part in named}
        self._parameters = [part for _, part in named]
        self._sizes = [part.numel() for part in self._parameters]
        self.dim = sum(self._sizes)
        self._x: Any = None
        self._out: Any = None

    def flat(self, dtype: Any) -> np.ndarray:
        """A copy of the parameters' values, shape (dim,)."""
        return np.concatenate([part.detach().cpu().numpy().ravel() for part in self._parameters]).astype(dtype)

    def at(self, x: Any, out: Any = None) -> None:
        """The parameters are x, and where `out` is given, gradients are added to it. Both have shape (dim,), and x any
        floating dtype: that of `out`, and of all that the module has beside its parameters from now on."""
        if x is not self._x:
            views = self._cut(x)
            if views[0].dtype != self._parameters[0].dtype:
                self._convert(views[0].dtype)
            for part, view in zip(self._parameters, views, strict=True):
                part.grad, part.data = None, view
            self._x, self._out = x, None
        if out is not None and out is not self._out:
            for part, view in zip(self._parameters, self._cut(out), strict=True):
                part.grad = view
            self._out = out

    def _cut(self, flat: Any) -> list[torch.Tensor]:
        tensor = torch.from_numpy(flat) if isinstance(flat, np.ndarray) else torch.from_dlpack(flat)
        return [part.view(shape) for part, shape in zip(tensor.split(self._sizes), self.shapes.values(), strict=True)]

    def _convert(self, dtype: torch.dtype) -> None:
        """Buffers and frozen parameters have the dtype of what is trained."""
        trained = set(map(id, self._parameters))
        for part in (*self.module.buffers(), *self.module.parameters()):
            if id(part) not in trained and part.is_floating_point():
                part.data = part.data.to(dtype)
