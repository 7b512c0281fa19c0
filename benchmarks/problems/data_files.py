"""Data files in LIBSVM's format: `label index:value ...`, one line for each sample, plain or compressed."""

import re
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from outpace.comm import inputs, memory
from outpace.comm.errors import UserError

MARK: Final = b"\xef\xbb\xbf"  # the byte order mark of UTF-8
SAMPLE: Final = re.compile(rb"[^\s:]+(\s+\d+:[^\s:]+)*\s*")
LONGEST: Final = 2**26  # bytes of a line
LAST: Final = 2**53  # index: up to here it is exact as a float
COPIES: Final = 4  # of a file's numbers, which lie in memory at a time


def read_libsvm(path: str | Path, what: str) -> tuple[Any, np.ndarray]:
    """Rows, a scipy.sparse.csr_array of shape (N, dim), and labels (N,), float64.

    Columns are numbered from 1, or where an index 0 occurs from 0; a row's indices may be in any order. Where that is
    not as LIBSVM writes them, it is said on standard error. Raises UserError, with the number of the first bad line.
    """
    from scipy.sparse import csr_array  # slow to import, and only rank 0 needs it

    numbers, ends, lines = _numbers(path, what)
    starts = np.append(0, ends[:-1]) if len(ends) else ends
    labels = numbers[starts]
    pairs = np.delete(numbers, starts).reshape(-1, 2)
    if not len(pairs):
        raise UserError(f"{what}: {path} holds no data")
    if pairs[:, 0].max() > LAST:
        raise UserError(f"{what}: {path} has the index {pairs[:, 0].max():g}; it must be at most {LAST}")
    columns, data = pairs[:, 0].astype(np.int64), pairs[:, 1].copy()
    bounds = (ends - np.arange(1, len(ends) + 1)) // 2  # of the rows' pairs
    first = 0 if columns.min() == 0 else 1
    X = csr_array((data, columns - first, np.concatenate([[0], bounds])), (len(labels), int(columns.max()) + 1 - first))
    noticed = ["indices start at 0"] if first == 0 else []
    if not X.has_sorted_indices:
        X.sort_indices()
        noticed.append("indices out of order were sorted")
    tell(path, what, noticed)
    if not X.has_canonical_format:
        twice = np.flatnonzero(np.append(np.diff(X.indices) == 0, False) & ~np.isin(np.arange(1, X.nnz + 1), X.indptr))[
            0
        ]
        line = lines[np.searchsorted(X.indptr, twice, "right") - 1]
        raise UserError(f"{what}: {path}, line {line}: index {X.indices[twice] + first} stands there twice")
    return X, labels


def tell(path: str | Path, what: str, noticed: list[str]) -> None:
    """Say on standard error how a file was understood that is not quite as expected."""
    if noticed:
        print(f"{what}: {path}: {'; '.join(noticed)}", file=sys.stderr, flush=True)


def _numbers(path: str | Path, what: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All numbers of the file, sample by sample a label and then index and value in turn; where each sample ends; and
    the number of its line."""
    numbers, ends, lines = array("d"), array("q"), array("q")
    most = memory.of_node() // (COPIES * numbers.itemsize)
    for number, line in _lines(path, what):
        try:
            if not SAMPLE.fullmatch(line):
                raise ValueError
            numbers.extend(map(float, line.replace(b":", b" ").split()))
        except ValueError:
            form = "not a text file" if b"\0" in line else "not of the form 'label index:value ...'"
            raise UserError(f"{what}: {path}, line {number}: {form}") from None
        ends.append(len(numbers))
        lines.append(number)
        if len(numbers) > most:
            raise UserError(f"{what}: {path} needs more memory than there is: {memory.amount(memory.of_node())}")
    read = np.frombuffer(numbers), np.frombuffer(ends, np.int64), np.frombuffer(lines, np.int64)
    wild = np.flatnonzero(~np.isfinite(read[0]))
    if len(wild):
        line = read[2][np.searchsorted(read[1], wild[0], "right")]
        raise UserError(f"{what}: {path}, line {line}: a number is not finite")
    return read


def _lines(path: str | Path, what: str) -> Iterator[tuple[int, bytes]]:
    """The lines that hold something beside a comment, with their numbers."""
    number = 0
    with inputs.opened(path, f"{what}: ") as file:
        while line := file.readline(LONGEST):
            number += 1
            if len(line) == LONGEST:
                raise UserError(f"{what}: {path}, line {number}: longer than {memory.amount(LONGEST)}")
            if number == 1:
                line = line.removeprefix(MARK)
            if line := line.partition(b"#")[0].strip():
                yield number, line
