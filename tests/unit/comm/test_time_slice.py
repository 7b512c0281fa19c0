"""Time slices, by what the kernel says of the process that asked for short ones."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from outpace.comm import time_slice

LOOK = """
import os, threading
from outpace.comm import time_slice
os.nice(3)
time_slice.shorten()
print(open("/proc/thread-self/sched").read())
thread = threading.Thread(target=lambda: print(open("/proc/thread-self/sched").read()))
thread.start()
thread.join()
print(os.nice(0), os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)
"""


def slices(told: str) -> list[float]:
    """In seconds, of each /proc/.../sched in the text."""
    return [int(found) / 1e9 for found in re.findall(r"se\.slice\s*:\s*(\d+)", told)]


@pytest.mark.skipif(
    not Path("/proc/self/sched").exists() or tuple(map(int, re.findall(r"\d+", platform.release())[:2])) < (6, 12),
    reason="a kernel that grants no slices, or does not tell",
)
@pytest.mark.skipif(platform.machine() not in time_slice.CALLS, reason="a machine of other system calls")
def test_a_thread_has_the_slice_and_nothing_else_changes() -> None:
    (usual,) = slices(Path("/proc/self/sched").read_text())
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    assert slices(done.stdout) == [time_slice.LEAST_S, usual]
    assert usual > time_slice.LEAST_S
    assert f"3 {os.SCHED_OTHER}" in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("system", "machine", "policy"), [("Darwin", "x86_64", 0), ("Linux", "s390x", 0), ("Linux", "x86_64", 5)]
)
def test_nobody_is_called_by_a_number_that_may_be_another(
    system: str, machine: str, policy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((system, "node", "6.18", "", machine)))
    monkeypatch.setattr(os, "sched_getscheduler", lambda _: policy)
    monkeypatch.setattr(time_slice.ctypes, "CDLL", lambda _: pytest.fail("a library was opened"))
    time_slice.shorten()
