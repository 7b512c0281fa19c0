"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from outpace.comm.errors import UserError


@contextmanager
def whole(path: Path, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write under a temporary name, a hidden one beside it unless given, which replaces `path` at the end; on
    an error nothing is left of it. Raises OSError."""
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def output(path: Path) -> Iterator[BinaryIO]:
    """The same for a file that the user has named: an error of the disk is a UserError."""
    try:
        with whole(path) as file:
            yield file
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
