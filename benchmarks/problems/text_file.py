"""The bytes of a file for a language model on bytes: each sample is `context` bytes, and its targets are the bytes that
follow each of them. Samples do not overlap; the last tenth of the file is held out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from outpace.benchmarks.problems.samples import AT_A_TIME, About, Part, Samples, Source
from outpace.comm import inputs
from outpace.comm.errors import UserError

CONTEXT: Final = 128
HELD_OUT: Final = 10  # one in so many samples


@dataclass
class Sequences(Samples):
    """Samples whose records are the bytes of inputs, and one more."""

    def take(self, index: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        """Inputs, uint8, and targets, int64, both of shape (b, context)."""
        rows = self.records[index]
        return rows[:, :-1], rows[:, 1:].astype(np.int64)


@dataclass(frozen=True)
class Text(About):
    """Of a text; its shape is (context,)."""

    def samples(self, records: np.ndarray, labels: np.ndarray | None) -> Samples:
        return Sequences(records, labels)

    def normalised(self, pixels: np.ndarray, dtype: Any) -> np.ndarray:
        """The bytes as they are, as numbers of classes."""
        return pixels.astype(np.int64)


def read(source: Source, seed: int) -> tuple[About, Part, Part]:
    path, context = Path(source.path or ""), source.context or CONTEXT
    with inputs.opened(path, f"{source.what}: ") as file:
        nbytes = sum(len(some) for some in iter(lambda: file.read(AT_A_TIME), b""))
    count = (nbytes - 1) // context
    if count < 2:
        least = f"with context={context} it must have {2 * context + 1:,}"
        raise UserError(f"{source.what}: {path} has {nbytes:,} bytes; {least}")
    train = count - -(-count // HELD_OUT)

    def part(start: int, stop: int) -> Part:
        return Part(stop - start, (context + 1,), None, _sequences(path, context, start, stop, source.what))

    return Text(256, (context,)), part(0, train), part(train, count)


def _sequences(path: Path, context: int, start: int, stop: int, what: str) -> Iterator[np.ndarray]:
    """The samples with these numbers, some at a time."""
    with inputs.opened(path, f"{what}: ") as file:
        file.seek(start * context)
        last = file.read(1)
        for at in range(start, stop, step := max(1, AT_A_TIME // context)):
            nbytes = min(step, stop - at) * context
            some = last + file.read(nbytes)
            if len(some) <= nbytes:
                raise UserError(f"{what}: {path} has become shorter while it was read")
            last = some[-1:]
            yield sliding_window_view(np.frombuffer(some, np.uint8), context + 1)[::context]
