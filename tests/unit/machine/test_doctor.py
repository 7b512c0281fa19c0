"""What the doctor makes of what it finds."""

from pathlib import Path

import pytest

from outpace.benchmarks.machine.doctor import _scheduler


@pytest.mark.parametrize(("switch", "verdict"), [("1\n", "slow"), ("0\n", "ok"), (None, "ok")])
def test_cores_that_sessions_share(switch: str | None, verdict: str, tmp_path: Path) -> None:
    """Without the switch the kernel was built without it."""
    if switch is not None:
        (tmp_path / "switch").write_text(switch)
    found, told = _scheduler(tmp_path / "switch")
    assert found == verdict
    assert ("sysctl kernel.sched_autogroup_enabled=0" in told) == (verdict == "slow")
