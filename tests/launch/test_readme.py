"""The first run of README.md, as a newcomer types it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import LIMIT_S

from outpace.benchmarks.trace.run import Run

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.long
def test_the_first_run_shows_a_slow_worker(tmp_path: Path) -> None:
    """Shortened to two epochs, and otherwise to the letter. Without --compute-time, say, both programs were as fast."""
    section = README.read_text().partition("## A first run of your own\n")[2]
    lines = re.findall(r"^    (.*)$", section.partition("- `")[0], re.MULTILINE)
    assert [line.split()[1] for line in lines] == ["run", "run", "show", "explain", "plot"]
    for line in lines:
        command, *words = shlex.split(line)
        more = ["--epochs", "2"] if words[0] == "run" else []
        typed = [str(Path(sys.executable).parent / command), *words, *more]
        done = subprocess.run(typed, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == 0, done.stderr
    rates = {run.attrs["algorithm"]: run.samples_per_s() for run in map(Run, tmp_path.glob("*.h5"))}
    assert rates["ad_psgd"] > 3 * rates["allreduce_sgd"]
    assert (tmp_path / "loss.png").stat().st_size > 5000
