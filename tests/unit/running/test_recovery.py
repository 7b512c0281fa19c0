"""What killed runs left, before anything is evaluated."""

from pathlib import Path

import pytest
from made_traces import written

from outpace.benchmarks.running.recovery import recover
from outpace.benchmarks.trace import parts
from outpace.benchmarks.trace.parts import Part, read_part
from outpace.comm.errors import UserError


def test_nothing_to_recover(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no parts of a killed run"):
        list(recover(tmp_path))


def test_runs_that_go_on_are_not_recovered(tmp_path: Path) -> None:
    """An open part is another process's: of a run that lives. Its files stay as they are, and so does its name."""
    target = tmp_path / "run.h5"
    part = Part(target, 0, {"rank": 0, "ranks": 1})
    assert parts.running(target)
    with pytest.raises(UserError, match="no parts of a killed run here; 1 run"):
        list(recover(tmp_path))
    with pytest.raises(FileExistsError):
        Part(target, 0, {"rank": 0, "ranks": 1})
    with pytest.raises(BlockingIOError, match="another run writes its parts"):
        Part(target, 0, {"rank": 0, "ranks": 1}, after=part.nbytes)
    assert read_part(part.path)[0].header == {"rank": 0, "ranks": 1}
    part.close()
    assert not parts.running(target)


def test_one_damaged_run_does_not_keep_the_others_from_recovery(tmp_path: Path) -> None:
    for name in ("a", "c"):
        (tmp_path / f"{name}.h5.part-0").write_bytes(b"not a part")
    written(tmp_path / "b.h5", 0, [], ranks=2)
    found = recover(tmp_path)
    with pytest.raises(UserError, match=r"a\.h5\.part-0: not a part.*b\.h5\.part-1: No such file.*c\.h5\.part-0"):
        next(found)
