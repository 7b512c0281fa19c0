"""What is shown of a trace, and of a damaged one."""

import shutil
from pathlib import Path

import h5py
import numpy as np

from outpace.benchmarks.trace.inspection import summary, validate
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

GOLDEN = Path(__file__).parents[2] / "golden" / "trace-v1.h5"


def shown(path: Path) -> dict[str, str]:
    """What `outpace show` tells, by its rows' names."""
    names, texts = summary(Run(path)).columns
    return dict(zip(map(str, names.cells), map(str, texts.cells), strict=True))


def test_columns_that_came_later_are_shown_where_they_are(tmp_path: Path) -> None:
    new = tmp_path / "new.h5"
    shutil.copy(GOLDEN, new)
    with h5py.File(new, "a") as file:
        rows = len(file["evaluations/loss"])
        for name, first in (("held_out_loss", 5), ("gradient_norm_1", 7)):
            file[f"evaluations/{name}"] = np.linspace(first, 0.25, rows)
    validate(GOLDEN)
    assert shown(new).keys() - shown(GOLDEN).keys() == {"held_out_loss", "gradient_norm_1"}
    assert shown(new)["held_out_loss"] == f"5 -> 0.25 ({rows} evaluations)"
    assert shown(new)["gradient_norm_1"] == f"7 -> 0.25 ({rows} evaluations)"


def test_time_is_told_by_rank_where_ranks_differ() -> None:
    """Compute by hand from /steps: 31.86 and 31.76 ms of 34.41; rank 1 waited 0.92 ms."""
    compute, injected, wait, exchange, idle = shown(GOLDEN)["time by rank, %"].splitlines()
    assert (compute, injected, wait) == ("compute  92.5 each", "injected 0.0 each", "wait     0.0 2.7")
    assert exchange.startswith("exchange ")
    assert idle.startswith("idle ")


def test_damage_anywhere_is_a_user_error(tmp_path: Path) -> None:
    """A byte turned over, which may be one that nothing depends on; HDF5 raises this and that for others."""
    whole, path = GOLDEN.read_bytes(), tmp_path / "damaged.h5"
    refused = 0
    for position in np.random.default_rng(0).choice(len(whole), 60, replace=False):
        content = bytearray(whole)
        content[position] ^= 0xFF
        path.write_bytes(content)
        try:
            validate(path)
            summary(Run(path))
        except UserError:
            refused += 1
    assert refused
