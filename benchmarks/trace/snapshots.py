"""Snapshots of the model during a run, in a mapped store beside its part."""

import functools
import os
import threading
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np

from outpace.comm.errors import UserError
from outpace.comm.offload import Offload

STORE_LIMIT: Final = 512 * 2**20  # bytes of snapshots of a rank
NODE_LIMIT: Final = 8 * STORE_LIMIT  # of all ranks of a node


SLOT_S: Final = 1e-3  # first stride of an asynchronous program's snapshots


STAMP: Final = np.dtype([("tag", "<i8"), ("checksum", "<i8")])  # of a copy; zeros where there is none


class Snapshots:
    """Up to `capacity` copies of the model, kept at multiples of a stride that doubles when the store is full.

    So a run of any length ends with between half and all of `capacity`. The stride counts steps where the program is
    synchronous, and else `SLOT_S` of aligned time. A copy's tag is its multiple of the first stride; the start is not
    kept.

    With a `path` the store is a mapped file (the stride, stamps, models), in which every copy that has been sealed
    outlives the process. With `due` and `stride` as they stood at a checkpoint, the store that is there is taken over,
    without what came after. Raises OSError, and UserError where the store is another one's.
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
        self.damaged = 0  # copies that do not fit their checksum, and are left out
        self.missing = 0  # copies from before the checkpoint that are not there
        self._tags = np.zeros(capacity, dtype=np.int64)
        self._offload = Offload()
        self._sealing = threading.Lock()  # held for a few stamps, never for a copy or a checksum
        self._reached = np.full(1, stride)  # the stride for which copies were last thinned out, in a mapped store
        self._stamps: np.ndarray | None = None
        if self.path is None:
            self._models = np.empty((capacity, dim), dtype=dtype)
            return
        if not self.path.exists():
            _allocate(self.path, nbytes(capacity, dim, dtype))
        self._reached, self._stamps, self._models = _mapped(self.path, capacity, dim, dtype, "r+")
        self._stamps[(self._stamps["tag"] >= due) | (self._stamps["tag"] % stride != 0)] = 0
        self._load()
        kept = max(stride, int(self._reached[0]))  # after the checkpoint the run may have come to a larger one
        self.missing = int(np.setdiff1d(np.arange(kept, due, kept), self._tags).size)
        self._reached[0] = stride

    @classmethod
    def read(cls, path: Path, capacity: int, dim: int, dtype: np.dtype[Any]) -> "Snapshots":
        """The store that a killed run left behind. Raises OSError, and UserError where it is another one's."""
        self = cls(0, dim, dtype, per_step=True)
        if capacity:
            self._reached, self._stamps, self._models = _mapped(path, capacity, dim, dtype, "r")
            self._load()
        return self

    def _load(self) -> None:
        """Take the copies that fit their stamps."""
        assert self._stamps is not None
        self._tags = self._stamps["tag"].copy()
        for row in np.flatnonzero(self._stamps != np.zeros((), STAMP)).tolist():
            if self._tags[row] <= 0 or self._stamps["checksum"][row] != self._checksum(row):
                self._tags[row] = 0
                self.damaged += 1

    def _checksum(self, row: int) -> int:
        """CRC-32 of a copy and its tag."""
        return zlib.crc32(self._models[row], zlib.crc32(self._tags[row].tobytes()))

    def offer(self, x: Any, steps: int, seconds: float) -> None:
        """Keep `x` for every due moment that has passed; the model has not changed since the last offer."""
        position = steps if self.per_step else seconds / SLOT_S
        while self.due <= position and len(self._tags):
            self._keep(x)
            self.due += self.stride

    def _keep(self, x: Any) -> None:
        """A copy has no tag before it is whole."""
        self._offload.settle()
        free = np.flatnonzero(self._tags == 0)
        if not len(free):
            self.stride *= 2
            self._reached[0] = self.stride  # before a copy is overwritten
            self._tags[self._tags % self.stride != 0] = 0
            if self.due % self.stride:  # the due moment itself falls out; the caller's addition lands on the next
                self.due -= self.stride // 2
                return
            free = np.flatnonzero(self._tags == 0)
        row = free[0]
        if self._stamps is not None:
            with self._sealing:
                self._stamp(row, 0, 0)
        self._offload.copy(x, self._models[row], functools.partial(self._tags.__setitem__, row, self.due))

    def seal(self) -> None:
        """Stamp what has been kept since the last call, for whoever reads the store after this process.

        A checksum takes as long as the copy itself. So the thread that writes rows makes it, not the program's.
        """
        self._offload.settle()
        if self._stamps is None:
            return
        for row in np.flatnonzero(self._stamps["tag"] != self._tags).tolist():
            tag = int(self._tags[row])
            checksum = self._checksum(row) if tag else 0
            with self._sealing:
                if self._tags[row] == tag:  # and not another copy's meanwhile
                    self._stamp(row, tag, checksum)

    def _stamp(self, row: int, tag: int, checksum: int) -> None:
        assert self._stamps is not None
        for name, value in (("tag", 0), ("checksum", checksum), ("tag", tag)):  # a kill between leaves no wrong stamp
            self._stamps[name][row] = value

    def tags(self) -> np.ndarray:
        """The tags of the kept copies, ascending."""
        self._offload.settle()
        return np.sort(self._tags[self._tags > 0])

    def sync(self) -> None:
        """What was sealed outlives the machine's next crash."""
        self._offload.settle()
        for store in (self._models, self._stamps, self._reached):
            if isinstance(store, np.memmap):
                store.flush()

    def __getitem__(self, tag: int) -> np.ndarray:
        """The copy with this tag, float64, shape (dim,)."""
        self._offload.settle()
        (row,) = np.flatnonzero(self._tags == tag)
        return np.asarray(self._models[row], dtype=np.float64)


def capacity(evaluations: int, dim: int, dtype: np.dtype[Any], ranks: int = 1) -> int:
    """How many snapshots each of the `ranks` of a node may keep for `evaluations` of them in the end: twice as many, if
    they fit."""
    fit = min(STORE_LIMIT, NODE_LIMIT // ranks) // (dim * dtype.itemsize)
    return 2 * min(evaluations, fit // 2)


def nbytes(capacity: int, dim: int, dtype: np.dtype[Any]) -> int:
    """The size of a store."""
    return int(8 + capacity * (STAMP.itemsize + dim * dtype.itemsize))


def _allocate(path: Path, size: int) -> None:
    """A file whose space is really reserved: a full disk under a mapped file is a fatal signal, not an error."""
    with open(path, "xb") as file:
        os.posix_fallocate(file.fileno(), 0, size)


def _mapped(path: Path, capacity: int, dim: int, dtype: np.dtype[Any], mode: Any) -> tuple[np.ndarray, ...]:
    """The stride, shape (1,), the stamps, shape (capacity,), and the models, shape (capacity, dim), of a store."""
    found, expected = path.stat().st_size, nbytes(capacity, dim, dtype)
    if found != expected:
        raise UserError(f"{path}: has {found} bytes, where the snapshots of this run have {expected}")
    stride = np.memmap(path, np.int64, mode, 0, (1,))
    stamps = np.memmap(path, STAMP, mode, stride.nbytes, (capacity,))
    return stride, stamps, np.memmap(path, dtype, mode, stride.nbytes + stamps.nbytes, (capacity, dim))
