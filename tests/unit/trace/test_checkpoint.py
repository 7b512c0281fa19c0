"""The files of a checkpoint: read back as they were, or not at all."""

from pathlib import Path

import numpy as np
import pytest

from outpace.benchmarks.trace import checkpoint
from outpace.benchmarks.trace.checkpoint import Checkpoint, Counters
from outpace.comm.errors import UserError

COUNTERS = Counters("id", {"a.svm": "0" * 64}, 5, 5, 5, 1.0, 100, 1, 1, [0, 0], [0, 0])
KEPT = {
    "x": np.arange(3.0),
    "none": np.empty((0, 2), "f4"),
    "at": np.array(7),
    "rng": np.random.default_rng(1).bit_generator.state,
}


def test_a_checkpoint_is_read_back(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "run.h5", 1, 3, Checkpoint(COUNTERS, KEPT))
    read = checkpoint.read(tmp_path / "run.h5", 1, 3)
    assert read.counters == COUNTERS
    assert read.kept.keys() == KEPT.keys()
    assert read.kept["rng"] == KEPT["rng"]
    for name in ("x", "none", "at"):
        np.testing.assert_array_equal(read.kept[name], KEPT[name], strict=True)
    read.kept["x"] += 1  # it is a model to go on with


def test_any_damaged_byte_and_any_cut_is_found(tmp_path: Path) -> None:
    target = tmp_path / "run.h5"
    checkpoint.write(target, 0, 1, Checkpoint(COUNTERS, KEPT))
    path = checkpoint.path(target, 0, 1)
    whole = path.read_bytes()
    damaged = [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(len(whole))]
    for data in [*damaged, *(whole[:at] for at in range(0, len(whole), 7))]:
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"rank 0: the checkpoint .* cannot be read"):
            checkpoint.read(target, 0, 1)
