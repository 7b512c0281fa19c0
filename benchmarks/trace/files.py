"""Files that are written whole or not at all."""

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from outpace.comm.errors import UserError


@contextmanager
def whole(path: Path, temporary: Path | None = None, replace: bool = True) -> Iterator[BinaryIO]:
    """A file to write under a temporary name, a hidden one beside it unless given, which gets the name `path` at the
    end; on an error nothing is left of it. Raises OSError, FileExistsError where it is not to `replace` a file."""
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            _name(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _name(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)  # which a file that appears meanwhile stops, as it would not stop a renaming
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(temporary, path)
    else:
        temporary.unlink()


@contextmanager
def output(path: Path) -> Iterator[BinaryIO]:
    """A table or a figure to write where the user has named it; an error of the disk is a UserError.

    A link stays and the file behind it is written as by `whole`. A device or a pipe is no file to replace: it gets the
    bytes at the end. Raises UserError for an HDF5 file, which is a trace named by mistake.
    """
    try:
        if not _is_file_or_new(path):
            content = io.BytesIO()  # formats seek, and an error may come: a pipe takes neither back
            yield content
            with open(path, "wb") as file:
                file.write(content.getbuffer())
        elif path.exists() and _is_hdf5(path):
            raise UserError(f"{path} is a trace, which no table or figure replaces; name another file")
        else:
            with whole(Path(os.path.realpath(path))) as file:
                yield file
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


def _is_hdf5(path: Path) -> bool:
    import h5py  # slow, and most who write files do without it

    return bool(h5py.is_hdf5(path))


def _is_file_or_new(path: Path) -> bool:
    """Links followed; a link to itself is neither, but an OSError."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return True
