"""Sparse rows, dealt over messages: every rank has what one process deals to it, and servers have the whole size."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from harness import CheckedComm, share, shares
from scipy.sparse import csr_array

N, DIM = 40, 20_000


@pytest.fixture
def path(comm: CheckedComm) -> Path:
    """A file of rank 0: five numbers in each row."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(comm.bcast(folder), "wide.txt")
        if comm.rank == 0:
            rng = np.random.default_rng(1)
            rows = [np.sort(rng.choice(np.arange(1, DIM + 1), 5, replace=False)) for _ in range(N)]
            text = [
                f"{2 * (j % 2) - 1} " + " ".join(f"{c}:{rng.random():.3f}" for c in row) for j, row in enumerate(rows)
            ]
            file.write_text("\n".join([*text, f"1 {DIM}:1"]))
        comm.Barrier()
        yield file
        comm.Barrier()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shares_of_sparse_rows(comm: CheckedComm, path: Path, dtype: str) -> None:
    text = f"libsvm:path={path},weight=0.01"
    mine, expected = share(comm, text, dtype, "size:ratio=2"), shares(text, comm.size, dtype, "size:ratio=2")[comm.rank]
    assert isinstance(mine.X, csr_array)
    assert mine.X.dtype == dtype
    assert (mine.X != expected.X).nnz == 0
    np.testing.assert_array_equal(mine.y, expected.y)
    assert (mine.n_samples, mine.dim, mine.L, mine.L_mean_square) == (
        expected.n_samples,
        DIM,
        expected.L,
        expected.L_mean_square,
    )


def test_a_model_beyond_the_memory_is_refused_on_every_rank(comm: CheckedComm, path: Path) -> None:
    if comm.rank == 0:
        path.write_text("+1 1:1\n" * comm.size + "-1 1000000000000:1\n")
    with pytest.raises(ValueError, match=r"columns: it needs about 48 TB of memory; .* are available"):
        share(comm, f"libsvm:path={path}")
