"""`outpace calibrate` on four ranks: the machine that it writes, and what it refuses."""

from pathlib import Path

import pytest
from jobs import outpace

from outpace.benchmarks.machine.links import GOODPUT
from outpace.comm import machines


@pytest.mark.long
def test_a_machine_behind_links_has_their_rate(links_here: None, tmp_path: Path) -> None:
    """Of a busy machine the gap is more, and never less than the link's."""
    file = tmp_path / "slow.toml"
    done = outpace("calibrate", "-o", str(file), "--links", "all:rate=20mbit", "--problem", "quadratic:dim=100")
    assert done.returncode == 0, done.stderr
    machine = machines.read(str(file))
    assert (machine.name, machine.links) == ("slow", "all:rate=20mbit")
    assert set(machine.compute_s_per_sample) == {"quadratic:dim=100"}
    line = 8 / (GOODPUT * 20e6)
    for pattern in ("duplex", "neighbours", "allreduce", "incast"):
        assert 0.8 * line < getattr(machine.gap_s_per_byte, pattern) < 3 * line
        assert 0 < getattr(machine.latency_s, pattern) < 0.5
    assert 0 < machine.pass_s_per_byte < 1e-7
    assert 0 < machine.cpu_per_message_s < 1e-2


REFUSED = {
    "a folder that there is not": (["-o", "nowhere/machine.toml"], "cannot read nowhere: no such file"),
    "a bad link": (["-o", "machine.toml", "--links", "all:rate=fast"], "--links all: rate is 'fast'"),
    "a bad problem": (["-o", "machine.toml", "--problem", "riddle"], "unknown name 'riddle'"),
}


@pytest.mark.parametrize(("words", "said"), REFUSED.values(), ids=REFUSED)
def test_refusals(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = outpace("calibrate", *words)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())
