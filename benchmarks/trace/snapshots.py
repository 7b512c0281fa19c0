"""Snapshots of the model during a run, in a mapped store beside its part."""

import os
from pathlib import Path
from typing import Any, Final

import numpy as np

from outpace.comm.arrays import copy

STORE_LIMIT: Final = 512 * 2**20  # bytes of snapshots per rank


SLOT_S: Final = 1e-3  # first stride of an asynchronous program's snapshots


class Snapshots:
    """Up to `capacity` copies of the model, kept at multiples of a stride that doubles when the store is full.

    So a run of any length ends with between half and all of `capacity`. The stride counts steps where the program is
    synchronous, and else `SLOT_S` of aligned time. A copy's tag is its multiple of the first stride; the start is not
    kept. With a `path` the store is a mapped file (tags, then models) that outlives the process; with `due` and
    `stride` as they stood at a checkpoint, the store that is there is taken over, without what came after.
    """

    def __init__(
        self,
        capacity: int,
        dim: int,
        dtype: np.dtype[Any],
        per_step: bool,
        path: Path | None = None,
        due: int = 1,
        stride: int = 1,
    ) -> None:
        self.per_step = per_step
        self.path = path if capacity else None
        self.due, self.stride = due, stride
        shape = (capacity, dim)
        if self.path is None:
            self._tags, self._models = np.zeros(capacity, dtype=np.int64), np.empty(shape, dtype=dtype)
        else:
            if not self.path.exists():
                _allocate(self.path, capacity * (8 + dim * dtype.itemsize))
            self._tags, self._models = _mapped(self.path, capacity, dim, dtype, "r+")
        self._tags[self._tags >= due] = 0

    @classmethod
    def read(cls, path: Path, capacity: int, dim: int, dtype: np.dtype[Any]) -> "Snapshots":
        """The store that a killed run left behind, or an empty one where none is left."""
        self = cls(0, dim, dtype, per_step=True)
        if path.exists():
            self._tags, self._models = _mapped(path, capacity, dim, dtype, "r")
        return self

    def offer(self, x: Any, steps: int, seconds: float) -> None:
        """Keep `x` for every due moment that has passed; the model has not changed since the last offer."""
        position = steps if self.per_step else seconds / SLOT_S
        while self.due <= position and len(self._tags):
            self._keep(x)
            self.due += self.stride

    def _keep(self, x: Any) -> None:
        free = np.flatnonzero(self._tags == 0)
        if not len(free):
            self.stride *= 2
            self._tags[self._tags % self.stride != 0] = 0
            if self.due % self.stride:  # the due moment itself falls out; the caller's addition lands on the next
                self.due -= self.stride // 2
                return
            free = np.flatnonzero(self._tags == 0)
        row = free[0]
        copy(x, self._models[row])
        self._tags[row] = self.due  # last, so that a torn copy has no tag

    def tags(self) -> np.ndarray:
        """The tags of the kept copies, ascending."""
        return np.sort(self._tags[self._tags > 0])

    def sync(self) -> None:
        """What was kept outlives the machine's next crash."""
        for store in (self._models, self._tags):  # a tag without its model would be worse than none
            if isinstance(store, np.memmap):
                store.flush()

    def __getitem__(self, tag: int) -> np.ndarray:
        """The copy with this tag, float64, shape (dim,)."""
        (row,) = np.flatnonzero(self._tags == tag)
        return np.asarray(self._models[row], dtype=np.float64)


def capacity(evaluations: int, dim: int, dtype: np.dtype[Any]) -> int:
    """How many snapshots a rank may keep for `evaluations` of them in the end: twice as many, if they fit."""
    fit = STORE_LIMIT // (dim * dtype.itemsize)
    return 2 * min(evaluations, fit // 2)


def _allocate(path: Path, nbytes: int) -> None:
    """A file whose space is really reserved: a full disk under a mapped file is a fatal signal, not an error."""
    with open(path, "xb") as file:
        os.posix_fallocate(file.fileno(), 0, nbytes)


def _mapped(path: Path, capacity: int, dim: int, dtype: np.dtype[Any], mode: Any) -> tuple[np.ndarray, np.ndarray]:
    tags = np.memmap(path, np.int64, mode, 0, (capacity,))
    return tags, np.memmap(path, dtype, mode, tags.nbytes, (capacity, dim))
