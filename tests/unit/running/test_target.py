"""Who may write a name, and what of an earlier run it takes up or leaves alone."""

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from outpace.algorithms.d_psgd import Config
from outpace.benchmarks.running import target
from outpace.benchmarks.running.plan import Plan, make_plan, parse_flags
from outpace.benchmarks.trace import checkpoint, lock
from outpace.benchmarks.trace.checkpoint import Checkpoint, Counters
from outpace.comm.errors import UserError


def planned(out: Path, *flags: str) -> Plan:
    return make_plan(
        "d_psgd", *parse_flags("d_psgd", Config, ["--problem", "quadratic:dim=4", "--out", str(out), *flags]), 1
    )


def claimed(plan: Plan) -> int:
    """The generation from which the run would go on."""
    with ExitStack() as until:
        return target.claim(plan, until)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The target of a run that has left its second checkpoint."""
    out = tmp_path / "run.h5"
    counters = Counters(planned(out).config_id, {}, 5, 5, 5, 1.0, 100, 1, 1, [0], [0])
    checkpoint.write(out, 0, 2, Checkpoint(counters, {}))
    return out


def test_the_same_command_goes_on_also_with_overwrite(out: Path) -> None:
    assert claimed(planned(out)) == 2
    assert claimed(planned(out, "--overwrite")) == 2
    assert claimed(planned(out, "--anew")) == 0
    assert checkpoint.generations(out, 0) == [2]


def test_another_command_goes_on_from_no_checkpoint_of_this_one(out: Path) -> None:
    with pytest.raises(UserError, match="has a checkpoint of a run with other flags"):
        claimed(planned(out, "--seed", "1"))
    assert claimed(planned(out, "--seed", "1", "--overwrite")) == 0


def test_a_name_that_is_taken(out: Path) -> None:
    """Whatever the second run may overwrite."""
    with ExitStack() as first:
        target.claim(planned(out), first)
        for flag in ("--overwrite", "--anew"):
            with pytest.raises(UserError, match="is being written by another run"):
                claimed(planned(out, flag))
    assert not lock.of(out).exists()


def test_names_whose_checkpoints_would_be_too_long(tmp_path: Path) -> None:
    most = os.pathconf(tmp_path, "PC_NAME_MAX")
    for too_many in ("a" * most, "b" * (most - 20)):
        with pytest.raises(UserError, match="to which the names of parts and checkpoints add"):
            claimed(planned(tmp_path / too_many))
    assert claimed(planned(tmp_path / ("c" * (most - 50)))) == 0
    assert list(tmp_path.iterdir()) == []
