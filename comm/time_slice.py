"""Short time slices on a core that many ranks share: the kernel is asked for them, by sched_setattr(2).

A rank that waits looks for messages and yields its core after each look (sched_yield(2)). Launchers start every rank in
a session of its own, and Linux may share out a core between sessions (autogroup, sched(7)). There a yield gives way to
those alone that are due sooner, by up to a slice; so a rank that has slept may get the core when the slices of all that
look are used up. The shorter these are, the sooner.
"""

import ctypes
import os
from typing import Final

LEAST_S: Final = 1e-4  # that the kernel grants; its own choice is some milliseconds
RESET_ON_FORK: Final = 1
# The numbers of sched_getattr and sched_setattr, which few C libraries have as functions.
CALLS: Final = {"x86_64": (315, 314), "aarch64": (275, 274), "riscv64": (275, 274)}


class Attributes(ctypes.Structure):
    """The kernel's `struct sched_attr`; `runtime` is the slice, in nanoseconds."""

    _fields_ = (
        *[(name, ctypes.c_uint32) for name in ("size", "policy")],
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        *[(name, ctypes.c_uint64) for name in ("runtime", "deadline", "period")],
        *[(name, ctypes.c_uint32) for name in ("util_min", "util_max")],
    )


def shorten() -> None:
    """For this thread alone. Linux before 6.12, other kernels and other machines take no notice.

    A gradient loop then goes before the threads that communicate, for which no gradient waits.
    """
    system = os.uname()
    if system.sysname != "Linux" or system.machine not in CALLS or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    read, write = CALLS[system.machine]
    call = ctypes.CDLL(None).syscall
    attributes = Attributes()
    if call(read, 0, ctypes.byref(attributes), ctypes.sizeof(attributes), 0) == 0:
        attributes.flags |= RESET_ON_FORK
        attributes.runtime = round(1e9 * LEAST_S)
        call(write, 0, ctypes.byref(attributes), 0)
