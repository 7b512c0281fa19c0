"""Snapshots of the model during a run, in a mapped store beside its part."""

import mmap
import os
import queue
import shutil
import threading
import zlib
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from outpace.comm.arrays import to_host
from outpace.comm.errors import UserError
from outpace.comm.offload import Offload

STORE_LIMIT: Final = 512 * 2**20  # bytes of snapshots that a rank may have wherever it runs
NODE_LIMIT: Final = 8 * STORE_LIMIT  # the same of all ranks of a node
SHARE: Final = 4  # part of what is free on the disk that all ranks together may take beyond these
SLOT_S: Final = 1e-3  # first stride of an asynchronous program's snapshots
READY: Final = 256 * 2**20  # bytes of a new store whose pages are there before the run
FOLD: Final = 1024  # words that a model is folded to, of which the checksum is taken
BUFFERS: Final = 2  # for copies that are still to be written
STAMP: Final = np.dtype([("tag", "<i8"), ("checksum", "<i8")])  # of a copy; zeros where there is none


class Models(Protocol):
    """Rows of coordinates, as an array has them."""

    def __setitem__(self, row: int, model: np.ndarray, /) -> None: ...
    def __getitem__(self, row: int, /) -> np.ndarray: ...


class Snapshots:
    """Up to `capacity` copies of the model, kept at multiples of a stride that doubles when the store is full.

    So a run of any length ends with between half and all of `capacity`; where its length is known (`expect`), the first
    stride is nearly the last one. The stride counts steps where the program is synchronous, and else `SLOT_S` of
    aligned time, and so does a copy's tag; the start is not kept.

    With a `path` the store is a mapped file (the stride, stamps, models), in which every copy that has its stamp
    outlives the process. To touch a page of it for the first time takes ten times as long as to copy what it holds: the
    first pages are touched beforehand, and copies are written behind the run, by a thread. Without one the copies are
    in memory, or in the rows of `models`. With `due` and `stride` as they stood at a checkpoint, the store that is
    there is taken over, without what came after. Raises OSError, and UserError where the store is another one's.
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
        models: Models | None = None,
    ) -> None:
        self.per_step = per_step
        self.path = path if capacity else None
        self.due, self.stride = due, stride
        self.damaged = 0  # copies that do not fit their checksum, and are left out
        self.missing = 0  # copies from before the checkpoint that are not there
        self._tags = np.zeros(capacity, dtype=np.int64)
        self._reached = np.full(1, stride)  # the stride for which copies were last thinned out, in a mapped store
        self._stamps: np.ndarray | None = None
        self._behind: Behind | None = None
        if self.path is None:
            self._models: Models = np.empty((capacity, dim), dtype=dtype) if models is None else models
            return
        new = not self.path.exists()
        if new:
            _allocate(self.path, nbytes(capacity, dim, dtype))
        self._reached, self._stamps, mapped = _mapped(self.path, capacity, dim, dtype, "r+")
        self._models = mapped
        if new:
            mapped.reshape(-1)[: READY // dtype.itemsize : mmap.PAGESIZE // dtype.itemsize] = 0
        self._stamps[(self._stamps["tag"] >= due) | (self._stamps["tag"] % stride != 0)] = 0
        self._load()
        kept = max(stride, int(self._reached[0]))  # after the checkpoint the run may have come to a larger one
        self.missing = int(np.setdiff1d(np.arange(kept, due, kept), self._tags).size)
        self._reached[0] = stride
        self._behind = Behind(self._stamps, mapped)

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
            if self._tags[row] <= 0 or self._stamps["checksum"][row] != checksum(self._tags[row], self._models[row]):
                self._tags[row] = 0
                self.damaged += 1

    def expect(self, length: float) -> None:
        """Before the run: it will be so long, in the unit of the tags, and fill the store once. Copies at its first
        steps, one and all, would be thinned out later, and cost time until then."""
        self.due = self.stride = int(length // (len(self._tags) + 1)) + 1
        self._reached[0] = self.stride

    def offer(self, x: Any, steps: int, seconds: float) -> None:
        """Keep `x` for every due moment that has passed; the model has not changed since the last offer."""
        self.keep(x, steps if self.per_step else seconds / SLOT_S)

    def keep(self, x: Any, position: float) -> None:
        """The same, at a position in the unit of the tags."""
        while self.due <= position and len(self._tags):
            self._keep(x)
            self.due += self.stride

    def _keep(self, x: Any) -> None:
        free = np.flatnonzero(self._tags == 0)
        if not len(free):
            self.stride *= 2
            self._reached[0] = self.stride  # before a copy is overwritten
            for row in np.flatnonzero(self._tags % self.stride).tolist():
                self._tags[row] = 0
                if self._behind:
                    self._behind.forget(row)
            if self.due % self.stride:  # the due moment itself falls out; the caller's addition lands on the next
                self.due -= self.stride // 2
                return
            free = np.flatnonzero(self._tags == 0)
        row = int(free[0])
        if self._behind:
            self._behind.keep(row, self.due, x)
        else:
            self._models[row] = to_host(x)
        self._tags[row] = self.due  # last, so that a torn copy has no tag

    def seal(self) -> None:
        """All that has been kept is in the store, for whoever reads it after this process."""
        if self._behind:
            self._behind.settle()

    def tags(self) -> np.ndarray:
        """The tags of the kept copies, ascending."""
        self.seal()
        return np.sort(self._tags[self._tags > 0])

    def sync(self) -> None:
        """What has been kept outlives the machine's next crash."""
        self.seal()
        for store in (self._models, self._stamps, self._reached):
            if isinstance(store, np.memmap):
                store.flush()

    def __getitem__(self, tag: int) -> np.ndarray:
        """The copy with this tag, float64, shape (dim,)."""
        self.seal()
        (row,) = np.flatnonzero(self._tags == tag)
        return np.asarray(self._models[int(row)], dtype=np.float64)


class Behind:
    """The thread that writes copies into a mapped store, with a stamp for each when it is whole.

    A copy waits in a buffer, whose pages are there before the run. Where the store is slower than the run for long, the
    run waits for a buffer. A model on a device is on its way to one while the run goes on.
    """

    def __init__(self, stamps: np.ndarray, models: np.ndarray) -> None:
        self._stamps, self._models, self._offload = stamps, models, Offload()
        self._free: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
        for _ in range(BUFFERS):
            self._free.put(np.ones(models.shape[1], models.dtype))
        self._work: queue.Queue[tuple[int, int, np.ndarray | None]] = queue.Queue()
        threading.Thread(target=self._write, name="snapshots", daemon=True).start()

    def keep(self, row: int, tag: int, x: Any) -> None:
        buffer = self._free.get()
        self._offload.copy(x, buffer, partial(self._work.put, (row, tag, buffer)))

    def forget(self, row: int) -> None:
        self._offload.settle()  # what is on its way may be this row's
        self._work.put((row, 0, None))

    def settle(self) -> None:
        """Everything is written."""
        self._offload.settle()
        self._work.join()

    def _write(self) -> None:
        while True:
            row, tag, buffer = self._work.get()
            self._stamp(row, 0, 0)
            if buffer is not None:
                np.copyto(self._models[row], buffer)
                self._stamp(row, tag, checksum(tag, buffer))
                self._free.put(buffer)
            self._work.task_done()

    def _stamp(self, row: int, tag: int, checksum: int) -> None:
        for name, value in (("tag", 0), ("checksum", checksum), ("tag", tag)):  # a kill between leaves no wrong stamp
            self._stamps[name][row] = value


def checksum(tag: int, model: np.ndarray) -> int:
    """CRC-32 of a copy's tag and of the sums of its every FOLD-th words of 32 bits, which takes a tenth of the time of
    that of all words."""
    words = model.view(np.uint32)
    whole = len(words) // FOLD * FOLD
    folded = np.add.reduce(words[:whole].reshape(-1, FOLD), axis=0, dtype=np.uint32)
    return zlib.crc32(words[whole:].data, zlib.crc32(folded.data, zlib.crc32(np.int64(tag).tobytes())))


def wanted(evaluations: int, length: int | None) -> int:
    """How many copies are to be kept, for at least so many evaluations in the end: of a run of unknown length twice as
    many, since the stride doubles."""
    if length is None:
        return 2 * evaluations
    return min(2 * evaluations, length // max(1, length // (evaluations + 1)))


def room(folder: Path, sharing: int, together: int) -> int:
    """Bytes that the snapshots of a rank may take in a folder whose disk so many ranks share, `together` on a node."""
    free = 0
    with suppress(OSError):  # whoever opens the store says what is wrong with the folder
        free = shutil.disk_usage(folder).free
    return max(anywhere(together), free // SHARE // sharing)


def anywhere(together: int) -> int:
    """Bytes that the snapshots of each of so many ranks of a node may take wherever it runs."""
    return min(STORE_LIMIT, NODE_LIMIT // together)


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
