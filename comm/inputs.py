"""Files that the user names as inputs: regular ones that fit into memory, of text with a byte order mark or without."""

import stat
from pathlib import Path
from typing import Final

from outpace.comm import memory
from outpace.comm.errors import UserError

KINDS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
MISSING: Final = "no such file"
COPIES: Final = 8  # of its bytes, in which a text and what is read from it may lie in memory at a time


def flaw(path: Path) -> str | None:
    """Why nothing can be read there; None where there is a regular file. To open a pipe would wait for ever, and a
    device has no end."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        return MISSING
    except OSError as error:
        return error.strerror
    except ValueError as error:  # a NUL in it
        return str(error)
    return None if kind == stat.S_IFREG else f"it is {KINDS.get(kind, 'no file')}, not a regular file"


def regular(path: str | Path, what: str) -> Path:
    """The path, if a regular file is there. Raises UserError, which `what` begins."""
    path = Path(path)
    if reason := flaw(path):
        raise UserError(f"{what}cannot read {path}: {reason}")
    return path


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
