"""Files that the user names as inputs: regular ones, compressed or not; of text, with a byte order mark or without."""

import bz2
import gzip
import lzma
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from outpace.comm import memory
from outpace.comm.errors import UserError

KINDS: Final = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
MISSING: Final = "no such file"
COMPRESSED: Final = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
COPIES: Final = 8  # of its bytes, in which a text and what is read from it may lie in memory at a time


def flaw(path: Path, wanted: int = stat.S_IFREG) -> str | None:
    """Why nothing can be read there; None where there is what is wanted, a regular file. To open a pipe would wait for
    ever, and a device has no end."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        return MISSING
    except OSError as error:
        return error.strerror
    except ValueError as error:  # a NUL in it
        return str(error)
    return None if kind == wanted else f"it is {KINDS.get(kind, 'no file')}, not {KINDS[wanted]}"


def regular(path: str | Path, what: str) -> Path:
    """The path, if a regular file is there. Raises UserError, which `what` begins."""
    return _there(path, what, stat.S_IFREG)


def folder(path: str | Path, what: str) -> Path:
    """The path, if a folder is there. Raises UserError, which `what` begins."""
    return _there(path, what, stat.S_IFDIR)


def _there(path: str | Path, what: str, wanted: int) -> Path:
    path = Path(path)
    if reason := flaw(path, wanted):
        raise UserError(f"{what}cannot read {path}: {reason}")
    return path


@contextmanager
def opened(path: str | Path, what: str) -> Iterator[IO[bytes]]:
    """What is in a regular file, unpacked where it is compressed. Raises UserError, which `what` begins, also for what
    goes wrong while it is read."""
    path = regular(path, what)
    try:
        with open(path, "rb") as file:
            start = file.read(max(map(len, COMPRESSED)))
        opener: Any = next((how for magic, how in COMPRESSED.items() if start.startswith(magic)), open)
        with opener(path, "rb") as file:
            yield file
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{what}cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def text(path: str | Path, what: str) -> str:
    """What is in a file of UTF-8 text, without the mark that some editors put first. Raises UserError."""
    path = regular(path, what)
    memory.require(COPIES * path.stat().st_size, f"{what}{path}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{what}cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{what}cannot read {path}: not a text file") from None
