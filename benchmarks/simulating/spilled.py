"""Where simulated ranks keep their snapshots: in a file, as the memory of one process is too small for all ranks'."""

import io
from typing import Any

import numpy as np

from outpace.benchmarks.running.storage import Unwritten


class Spilled:
    """Rows of dim coordinates, from byte `start` of an open file on.

    Written and read as files are, not mapped: the pages of a mapped one count as memory of the process. Raises
    Unwritten where the disk fails.
    """

    def __init__(self, file: io.FileIO, start: int, dim: int, dtype: np.dtype[Any]) -> None:
        self._file, self._start, self._dim, self._dtype = file, start, dim, dtype

    def __setitem__(self, row: int, model: np.ndarray) -> None:
        left = model.data.cast("B")
        try:
            self._seek(row)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise Unwritten(f"the snapshots cannot be written: {error.strerror or error}") from None

    def __getitem__(self, row: int) -> np.ndarray:
        self._seek(row)
        return np.fromfile(self._file, self._dtype, self._dim)

    def _seek(self, row: int) -> None:
        self._file.seek(self._start + row * self._dim * self._dtype.itemsize)
