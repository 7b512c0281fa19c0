"""A rank in which nothing happens says so, and where each of its threads waits. It asks nobody and needs no MPI."""

import linecache
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Final

STILL_S: Final = 60.0  # without a step or an event
# Where waiting is done for others: of interest is the line that waits by them.
WAITING: Final = ("threading", "queue", "outpace.comm.clock", "outpace.comm.meter", "outpace.comm.agreement")


class Standstill:
    """`look` is called about once a second by a thread that has nothing to do with the program's."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._since_s = time.monotonic()  # when the last thing happened
        self._told = False
        self._places: dict[threading.Thread, tuple[str, float]] = {}  # and since when each thread was seen there

    def look(self, moved: bool) -> None:
        """`moved`: something was recorded since the last look. After STILL_S without it one line goes to stderr."""
        now_s = time.monotonic()
        if moved:
            self._since_s, self._told = now_s, False
            self._places.clear()
            return
        before = self._places
        self._places = {}
        for thread, place in _places().items():
            known, since_s = before.get(thread, ("", now_s))
            self._places[thread] = place, since_s if place == known else now_s
        if now_s - self._since_s >= STILL_S and not self._told:
            self._told = True
            each = [f"{thread.name}, for {now_s - s:.0f} s: {place}" for thread, (place, s) in self._places.items()]
            still = f"rank {self._rank}: nothing has happened here for {now_s - self._since_s:.0f} s"
            print(f"{still}; its threads are at: {'; '.join(each)}", file=sys.stderr, flush=True)


def _places() -> dict[threading.Thread, str]:
    """Where each other thread of this process is."""
    frames, here = sys._current_frames(), threading.get_ident()
    threads = [thread for thread in threading.enumerate() if thread.ident in frames and thread.ident != here]
    return {thread: _place(frames[thread.ident]) for thread in threads if thread.ident is not None}


def _place(frame: FrameType) -> str:
    """The innermost line of a thread that is not one of WAITING's."""
    while frame.f_back and frame.f_globals.get("__name__") in WAITING:
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    line = linecache.getline(str(path), frame.f_lineno).strip()
    return f"{Path(*path.parts[-2:])}:{frame.f_lineno} ({line})"
