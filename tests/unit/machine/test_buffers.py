"""Where the C library is told to keep the buffers of large messages."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from outpace.benchmarks.machine import buffers


def test_only_for_the_wheel_and_unless_the_user_has_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "mpi4py", SimpleNamespace(__file__=str(tmp_path / "mpi4py" / "__init__.py")))
    assert buffers.default({}) == {}
    (tmp_path / "mpich-4.3.dist-info").mkdir()
    assert buffers.default({}) == {buffers.VARIABLE: buffers.TUNABLES}
    assert buffers.default({buffers.VARIABLE: ""}) == {}
