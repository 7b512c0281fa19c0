"""The environment and the command line of a launch."""

import pytest

from outpace.benchmarks.machine import launcher


def test_a_log_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the user's own terminal is, and says."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert launcher.environment(2, logged=True)["TTY_COMPATIBLE"] == "0"
    assert launcher.environment(2)["TTY_COMPATIBLE"] == "1"


def test_simulated_ranks_are_one_process_behind_no_links() -> None:
    arguments = ["--simulate", "10gbit", "--links=all:rate=1gbit"]
    line = launcher.command("outpace.algorithms.d_psgd", 512, arguments)
    assert line[1:] == ["-m", "outpace.benchmarks.simulating", "outpace.algorithms.d_psgd", "512", *arguments]
    assert launcher.behind(arguments, 512) == []
