"""SGP beyond the conformance table: D-PSGD where parts are equal both ways, and what push-sum keeps elsewhere."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from harness import CheckedComm, RandomStart, Rounds, execute, share, shares
from reference import sgp as sgp_form

from outpace.algorithms import d_psgd, sgp
from outpace.benchmarks.trace.recorder import Trace
from outpace.benchmarks.trace.snapshots import Snapshots

NOISY = "quadratic:dim=10,sigma=0.3,zeta=1"


@pytest.mark.ranks(1, 2, 3, 4)
@pytest.mark.parametrize("graph", ["ring", "complete:lazy=1", "static-exponential", "one-peer"])
def test_equal_parts_both_ways_are_d_psgd(comm: CheckedComm, graph: str) -> None:
    """On a regular graph P is doubly stochastic, and SGP is D-PSGD that averages after the gradient, to 1e-12."""
    problem = share(comm, NOISY)
    config: dict[str, Any] = {"topology": graph, "step_size": 0.1, "schedule": "sqrt"}
    x = execute(comm, d_psgd, problem, 30, order="adapt-combine", **config).x
    z = execute(comm, sgp, problem, 30, **config).x
    np.testing.assert_allclose(z, x, rtol=0, atol=1e-12)
    other = execute(comm, d_psgd, problem, 30, order="consensus", **config).x
    assert comm.size == 1 or comm.allreduce(np.abs(z - other).max(), max) > 1e-3


@pytest.fixture
def directed(comm: CheckedComm) -> Iterator[str]:
    """A directed ring with one chord, on which every worker keeps another part: of all ranks, from one file."""
    folder = TemporaryDirectory() if comm.rank == 0 else None
    path = comm.bcast(Path(folder.name, "P.txt") if folder else None)
    n = comm.size
    if folder:
        kept = 0.3 + 0.5 * np.arange(n) / n
        P = np.diag(kept) + np.roll(np.diag(1 - kept), 1, axis=0)
        P[2, 0], P[1, 0] = P[1, 0] / 3, P[1, 0] * 2 / 3
        np.savetxt(path, P)
    comm.Barrier()
    yield f"file:path={path}"
    comm.Barrier()
    if folder:
        folder.cleanup()


@pytest.mark.ranks(3, 4)
def test_a_directed_graph_from_a_file(comm: CheckedComm, directed: str) -> None:
    """As in the matrix form, which reads the file itself."""
    config: dict[str, Any] = {"topology": directed, "step_size": 0.1, "dtype": "float64"}
    z = execute(comm, sgp, share(comm, NOISY), 30, **config).x
    Z = sgp_form.run(shares(NOISY, comm.size), sgp.Config(**config), 30)
    np.testing.assert_allclose(z, Z[comm.rank], rtol=0, atol=1e-12)


@pytest.mark.ranks(3, 4)
@pytest.mark.parametrize("graph", ["star", "path:lazy=1", None])
def test_what_push_sum_keeps(comm: CheckedComm, directed: str, graph: str | None) -> None:
    """With step size 0, from different starts: after every step the w are above 0 and sum to n, and the mean of the z,
    weighted by w, is that of the starts; in the end every z is that mean, though the w are far from 1."""
    problem = RandomStart(share(comm, "quadratic:dim=10"), comm.rank)
    mean = comm.allreduce(problem.x0()) / comm.size
    cfg = sgp.Config(topology=graph or directed, step_size=0.0, dtype="float64")
    steps, uneven = 200, 0.0

    def looked_at() -> Iterator[int]:
        nonlocal uneven
        for k in range(steps):
            yield k
            (w,), z = budget.kept["xw"][10:], budget.kept["z"]
            assert w > 0
            assert comm.allreduce(w) == pytest.approx(comm.size, abs=1e-12)
            np.testing.assert_allclose(comm.allreduce(w * z) / comm.size, mean, rtol=0, atol=1e-12)
            uneven = max(uneven, abs(w - 1))

    budget = Rounds(looked_at())
    trace = Trace(comm, Snapshots(0, problem.dim, np.dtype("f8"), per_step=True))
    z = sgp.run(comm, problem, cfg, budget, trace)
    np.testing.assert_allclose(z, mean, rtol=0, atol=1e-9)
    assert comm.allreduce(uneven, max) > 0.2
