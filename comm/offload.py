"""Copies of vectors that nobody waits for where they come from a device."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from outpace.comm.arrays import current_device, mark, module, own_stream, pinned, start_copy

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor


class Offload:
    """Copies vectors of one size and type to the host, one at a time.

    A device array is copied beside itself, in the stream of the calling thread, and comes down behind the run: a thread
    and a stream of their own take it to pinned memory and from there to its target.
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._under_way: Future[None] | None = None

    def copy(self, x: Any, target: np.ndarray, done: Callable[[], None]) -> None:
        """target, shape (dim,), <- x as it is now; `done` is called when it is. Waits for the copy before this one."""
        self.settle()
        if isinstance(x, np.ndarray):
            np.copyto(target, x)
            done()
            return
        if self._thread is None:
            from concurrent.futures import ThreadPoolExecutor  # and logging: 3 ms of a start, which only a device needs

            self._beside, self._host, self._stream = module(x).empty_like(x), pinned(x), own_stream(x)
            self._thread = ThreadPoolExecutor(1, "offload", current_device().use)
        start_copy(x, self._beside)
        self._under_way = self._thread.submit(self._bring_down, mark(x), target, done)

    def _bring_down(self, copied: Any, target: np.ndarray, done: Callable[[], None]) -> None:
        with self._stream as stream:
            stream.wait_event(copied)
            start_copy(self._beside, self._host)
            mark(self._beside).synchronize()
        np.copyto(target, self._host)
        done()

    def settle(self) -> None:
        """Wait until the last copy is done; raise what kept it from that. From any thread."""
        if under_way := self._under_way:
            under_way.result()
