"""CHOCO-SGD beyond the conformance table: its special case, the copies, the mean, what each compressor sends."""

from typing import Any

import numpy as np
import pytest
from harness import CheckedComm, RandomStart, Rounds, execute, share, shares
from reference import Batches, mixing_matrix, start

from outpace.algorithms import choco_sgd, d_psgd
from outpace.benchmarks.conformance.row import ring_allreduce
from outpace.benchmarks.conformance.trial import Shown
from outpace.benchmarks.trace.recorder import Trace
from outpace.benchmarks.trace.snapshots import Snapshots
from outpace.comm import topology

PROBLEM = "quadratic:dim=67,sigma=0.3,zeta=1"
COMPRESSORS = {  # with a fitting consensus step size, and words of 4 bytes in a message of 67 numbers in float64
    "identity": (1.0, 134),
    "sign": (0.5, 2 + 3),
    "top-k:share=0.1": (0.2, 3 * 7),
    "qsgd:levels=7": (0.4, 2 + 4 * 3),
}
every = pytest.mark.parametrize("compressor", COMPRESSORS)


def flags(compressor: str, **others: Any) -> dict[str, Any]:
    return {"compressor": compressor, "consensus_step_size": COMPRESSORS[compressor][0], **others}


@pytest.mark.ranks(2, 3, 4)
@pytest.mark.parametrize("graph", ["ring", "star", "path:lazy=1"])
def test_without_compression_it_adapts_then_combines(comm: CheckedComm, graph: str) -> None:
    """x <- W (x - gamma g), which is D-PSGD's other order, not its own W x - gamma g."""
    x = execute(comm, choco_sgd, share(comm, PROBLEM), 30, topology=graph, **flags("identity")).x
    cfg = choco_sgd.Config(dtype="float64")
    everyone, W = shares(PROBLEM, comm.size), mixing_matrix(graph, comm.size)
    X, batches = start(everyone), Batches(everyone, cfg)
    for _ in range(30):
        X = W @ (X - cfg.step_size * batches.gradients(X))
    np.testing.assert_allclose(x, X[comm.rank], rtol=0, atol=1e-12)
    same = {"order": "adapt-combine", "step_size": cfg.step_size}
    np.testing.assert_allclose(
        x, execute(comm, d_psgd, share(comm, PROBLEM), 30, topology=graph, **same).x, rtol=0, atol=1e-12
    )


@pytest.mark.ranks(2, 3, 4)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every
def test_copies_are_the_same_to_the_bit(comm: CheckedComm, compressor: str, dtype: str) -> None:
    """Every neighbour's x^_i is worker i's own: a message that is added otherwise on one side would be an error of the
    mean that nothing takes back."""
    problem, budget = share(comm, PROBLEM, dtype), Rounds(range(20))
    trace = Trace(comm, Snapshots(0, problem.dim, np.dtype(dtype), per_step=True))
    choco_sgd.run(comm, problem, choco_sgd.Config(dtype=dtype, **flags(compressor)), budget, trace)
    own, *copies = budget.kept["x_hat"]
    owners = comm.allgather(own)
    assert own.any()
    for rank, copy in zip(topology.neighbours(mixing_matrix("ring", comm.size), comm.rank), copies, strict=True):
        np.testing.assert_array_equal(copy, owners[rank])


class Recorded:
    """A problem that keeps the gradients that it gives."""

    def __init__(self, problem: Any) -> None:
        self._problem, self.gradients = problem, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._problem, name)

    def gradient(self, x: np.ndarray, batch: np.ndarray, out: np.ndarray) -> None:
        self._problem.gradient(x, batch, out)
        self.gradients.append(out.copy())


@pytest.mark.ranks(2, 3, 4)
@every
def test_mean_follows_sgd(comm: CheckedComm, compressor: str) -> None:
    """However coarse C is: x_bar_{k+1} = x_bar_k - gamma (1/n) sum_i g_i, the gradients at the local models."""
    problem = Recorded(share(comm, PROBLEM))
    models = execute(comm, choco_sgd, problem, 50, recorder=Shown, **flags(compressor)).models
    # the first few gradients were calls of the calibration
    X, G = (comm.allreduce(np.stack(rows[-50:])) / comm.size for rows in (models, problem.gradients))
    np.testing.assert_allclose(X[1:], X[:-1] - 0.2 * G[:-1], rtol=0, atol=1e-12)


@pytest.mark.ranks(2, 3, 4)
@every
def test_models_agree_in_the_end(comm: CheckedComm, compressor: str) -> None:
    """Without gradients, to a twentieth and less. Compressed models, in place of what changes in them, do not."""
    problem = RandomStart(share(comm, PROBLEM), comm.rank)
    x = execute(comm, choco_sgd, problem, 300, step_size=0.0, **flags(compressor)).x
    before, after = (np.ptp(comm.allgather(v), axis=0).max() for v in (problem.x0(), x))
    assert after < 0.05 * before


@pytest.mark.ranks(2, 3, 4)
@every
def test_sends_compressed_messages(comm: CheckedComm, compressor: str) -> None:
    """To the byte, to each neighbour, and as the trace tells it."""
    outcome = execute(comm, choco_sgd, share(comm, PROBLEM), 10, agreement=1000, **flags(compressor))
    degree = min(2, comm.size - 1)
    due = 10 * degree * 4 * COMPRESSORS[compressor][1]
    assert outcome.events["nbytes"].sum() == due
    assert outcome.sent.sum() - ring_allreduce(comm.size, 1)[comm.rank] == due  # one agreement on the end, of a byte
