"""The end of a process."""

import os
import subprocess
import sys

import pytest

CODE = """
import atexit, sys, threading, time
from outpace.benchmarks.machine.leaving import leave
atexit.register(print, "registered")
threading.Thread(target=time.sleep, args=(60,)).start()
print("printed", end=" ")
leave(3)
"""


@pytest.mark.parametrize("reader", ["reads", "has gone"])
def test_what_was_printed_and_registered_is_done_and_no_thread_is_waited_for(reader: str) -> None:
    """An end by `sys.exit` would take a minute, and one without a reader would have another exit code."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", CODE], env={**os.environ, "PYTHONUNBUFFERED": ""}, **pipes)
    assert process.stdout
    assert process.stderr
    if reader == "reads":
        assert process.stdout.read() == "printed registered\n"
    process.stdout.close()
    assert process.wait(timeout=30) == 3
    assert process.stderr.read() == ""
    process.stderr.close()
