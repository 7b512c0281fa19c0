"""Data sets, sent on by rank 0: every rank has what one process deals to it, and hears of what is wrong with a file."""

import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from harness import CheckedComm
from mpi4py import MPI

from outpace.benchmarks.problems import Setting, data_sets
from outpace.comm.errors import UserError

COUNT, HELD_OUT = 8000, 77  # more than are read at a time


@pytest.fixture
def folder(comm: CheckedComm) -> Iterator[Path]:
    """MNIST's files, of noise; rank 0's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(comm.bcast(name))
        if comm.rank == 0:
            rng = np.random.default_rng(1)
            for part, count in (("train", COUNT), ("t10k", HELD_OUT)):
                header = struct.pack(">4I", 0x803, count, 28, 28)
                (folder / f"{part}-images-idx3-ubyte").write_bytes(header + rng.bytes(784 * count))
                labels = rng.integers(10, size=count, dtype=np.uint8)
                (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + labels.tobytes())
        comm.Barrier()
        yield folder
        comm.Barrier()


def load(folder: Path, comm: MPI.Intracomm, workers: list[int], n: int, split: str) -> list[data_sets.Share]:
    source = data_sets.parse(f"mnist:{folder}", "--problem torch")
    return data_sets.load(source, Setting(comm, workers, n, split, 3, "float64", np))


@pytest.mark.parametrize("split", ["iid", "size:ratio=3", "dirichlet:alpha=1"])
@pytest.mark.parametrize("servers", [0, 1])
def test_shares_are_those_of_one_process(comm: CheckedComm, folder: Path, split: str, servers: int) -> None:
    n = comm.size - servers
    if not n:
        pytest.skip("no rank is left to work")
    mine = load(folder, comm, [comm.rank] if comm.rank < n else [], n, split)
    everyone = load(folder, MPI.COMM_SELF, [*range(n)], n, split)
    assert len(mine) == (comm.rank < n)
    for share in mine:
        expected = everyone[comm.rank]
        assert share.about == expected.about
        assert share.n_total == COUNT
        for one, other in ((share.train, expected.train), (share.held_out, expected.held_out)):
            np.testing.assert_array_equal(one.records, other.records)
            np.testing.assert_array_equal(one.labels, other.labels)


def test_every_rank_hears_of_a_file_that_ends_too_early(comm: CheckedComm, folder: Path) -> None:
    """When the ranks have some of the images already, and wait for more."""
    if comm.rank == 0:
        with open(folder / "train-images-idx3-ubyte", "r+b") as file:
            file.truncate(5_500_000)
    comm.Barrier()
    with pytest.raises(UserError, match=r"is cut off: it ends after 5,500,000 of 6,272,016 bytes"):
        load(folder, comm, [comm.rank], comm.size, "iid")
