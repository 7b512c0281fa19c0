"""A job under test, seen from outside."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outpace.benchmarks.trace.parts import Damaged, leftovers, read_part

LIMIT_S = 120  # for what takes seconds on an idle machine


@dataclass
class Job:
    """A running launch in a process group of its own; `pids()` are its ranks', by rank, from the part files."""

    process: subprocess.Popen[str]
    target: Path
    started: float = field(default_factory=time.monotonic)

    def pids(self) -> dict[int, int]:
        found = {}
        for path in leftovers(self.target):
            if path.suffix.startswith(".part-") and (header := _header(path)):
                found[header["rank"]] = header["pid"]
        return found

    def wait_until_running(self, ranks: int, seconds: float) -> dict[int, int]:
        """Return once all parts say that the timed part began, and `seconds` more have passed."""
        while True:
            assert self.process.poll() is None, "".join(self.process.communicate())
            assert time.monotonic() - self.started < LIMIT_S
            paths = [path for path in leftovers(self.target) if path.suffix.startswith(".part-")]
            if len(paths) == ranks and all("started_s" in _header(path) for path in paths):
                break
            time.sleep(0.05)
        time.sleep(seconds)
        return self.pids()

    def kill(self, within_s: float = 2) -> None:
        """SIGKILL to every rank, as if its node were lost; until launcher and ranks are gone."""
        pids = self.pids().values()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.end()
        assert die(pids, within_s)

    def end(self) -> tuple[int, str, str]:
        """(exit code, stdout, stderr) of the launcher."""
        out, err = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, out, err


def outpace(*words: str) -> subprocess.CompletedProcess[str]:
    """The command with these words, run to its end."""
    line = [str(Path(sys.executable).parent / "outpace"), *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=LIMIT_S)


def _header(path: Path) -> dict[str, Any]:
    """Of a part that may be written right now."""
    try:
        return read_part(path)[-1].header
    except Damaged as torn:
        return torn.before[-1].header
    except ValueError:
        return {}


def alive(pid: int) -> bool:
    """Whether a thread of the process runs; a zombie that nobody has collected yet is dead."""
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):  # the first one may be gone, and files be open still
        with suppress(OSError):
            if thread.read_text().rpartition(")")[2].split()[0] not in "ZX":
                return True
    return False


def die(pids: Iterable[int], within_s: float) -> bool:
    """Whether all the processes are gone within that time."""
    deadline = time.monotonic() + within_s
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
