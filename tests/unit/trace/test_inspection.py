"""A damaged trace."""

from pathlib import Path

import numpy as np

from outpace.benchmarks.trace.inspection import summary, validate
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

GOLDEN = Path(__file__).parents[2] / "golden" / "trace-v1.h5"


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
