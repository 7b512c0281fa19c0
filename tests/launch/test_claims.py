"""`outpace claims` as a user types it: thresholds first, resuming, reports; and verdicts that hold on any machine."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from outpace.benchmarks.claims.ledger import CLAIMS

OUTPACE = str(Path(sys.executable).parent / "outpace")
VERDICTS = {"holds", "fails", "undecided", "cannot be tested here", "cannot be tested now"}
# These hang on no pace of the machine, and three repetitions are enough.
SURE = {claim.id for claim in CLAIMS.values() if not claim.sweep}
SURE |= {"vote-bits", "vote-32-times-less", "d-psgd-consensus", "katyusha-x-is-svrg"}


def claims(folder: Path, *words: str) -> str:
    line = [OUTPACE, "claims", *words, "--quick", "-o", str(folder)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "no figure" not in done.stdout
    return done.stdout


def verdicts(folder: Path) -> dict[str, str]:
    about = json.loads((folder / "claims.json").read_text())
    return {claim["id"]: claim["verdict"] for claim in about["claims"]}


@pytest.mark.long
def test_a_stopped_ledger_goes_on(tmp_path: Path) -> None:
    """By the same command, with the traces that it has: thresholds are printed before anything runs, and the second
    time nothing does."""
    line = [OUTPACE, "claims", "vote-32-times-less", "--quick", "-o", str(tmp_path)]
    first = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    traces = tmp_path / "traces"
    while not list(traces.glob("*.h5")):
        assert first.poll() is None
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGTERM)
    out, _ = first.communicate(timeout=120)
    assert first.returncode == 128 + signal.SIGTERM
    assert "fixed beforehand" in out
    assert "Verdicts" not in out
    assert not (tmp_path / "claims.json").exists()
    claims(tmp_path, "vote-32-times-less")
    assert verdicts(tmp_path) == {"vote-32-times-less": "holds"}
    made = {path: path.stat().st_mtime_ns for path in traces.glob("*.h5")}
    assert len(made) == 2
    out = claims(tmp_path, "vote-32-times-less")
    assert out.index("fixed beforehand") < out.index("Verdicts")
    assert made == {path: path.stat().st_mtime_ns for path in traces.glob("*.h5")}


@pytest.mark.long
def test_what_hangs_on_no_pace_holds(tmp_path: Path) -> None:
    claims(tmp_path, *SURE)
    assert verdicts(tmp_path) == dict.fromkeys(SURE, "holds")


@pytest.mark.idle
def test_the_quick_ledger(tmp_path: Path) -> None:
    """Every claim has a verdict, 24 or more of them by measuring; and a figure for each of these in the one page."""
    claims(tmp_path)
    found = verdicts(tmp_path)
    assert found.keys() == CLAIMS.keys()
    assert set(found.values()) <= VERDICTS
    assert {claim for claim in SURE if found[claim] != "holds"} == set()
    measured = [claim for claim, verdict in found.items() if not verdict.startswith("cannot")]
    assert len(measured) >= 24
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= len(measured)
