"""Standard streams that are not there, or that nobody reads any more."""

import os
import sys
from typing import Final, TextIO

MODES: Final = {"stdin": "r", "stdout": "w", "stderr": "w"}  # of the descriptors 0, 1, 2


def open_closed() -> None:
    """Open /dev/null where this process was started without a stream: the next file that it opens would be taken for
    it."""
    for descriptor, (name, mode) in enumerate(MODES.items()):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            setattr(sys, name, open(descriptor, mode))  # noqa: SIM115


def say(text: str) -> None:
    """One line to stderr, if anybody reads it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        forsake(sys.stderr)


def forsake(stream: TextIO) -> None:
    """Nobody reads the stream: what is still written to it, at the exit for example, goes nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
