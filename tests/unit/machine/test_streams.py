"""Standard streams that are not there."""

import subprocess
import sys
from pathlib import Path

import pytest

OPENS = """
import sys
from outpace.benchmarks.machine.streams import open_closed

open_closed()
with open(sys.argv[1], "w") as file:
    print("for nobody")
    print("for nobody", file=sys.stderr)
    file.write(f"{sys.stdin.read()}{file.fileno()}")
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_no_file_is_taken_for_a_stream(tmp_path: Path, closed: str) -> None:
    line = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", OPENS, tmp_path / "file"]
    done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int((tmp_path / "file").read_text()) > 2
