"""Every program on LeNet-5 and real images, in short, and the synchronous ones against second sources."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import CheckedComm, execute, share, shares
from mpi.test_conformance import ROWS
from mpi4py import MPI
from networks import as_in_torch, some_of_fashion_mnist
from reference import d2 as d2_form
from reference import d_psgd as d_psgd_form

from outpace.algorithms import allreduce_sgd, d2, d_psgd
from outpace.benchmarks.conformance.contracts import counted
from outpace.benchmarks.conformance.row import Row, configurations
from outpace.benchmarks.conformance.verdict import NotApplicable

pytestmark = pytest.mark.ranks(4)

# Of steps that lower the loss of this network soon, where the program's own default does not.
FLAGS: dict[str, dict[str, Any]] = {
    "a_psgd": {"step_size": 0.05},  # which bears gradients as stale as a busy machine makes them
    "sign_sgd": {"step_size": 2e-3, "schedule": "constant"},
    "eamsgd": {"period": 1, "step_size": 0.05},
    "gradient_tracking": {"step_size": 0.05},
    "quantized_sgd": {"batch_size": 64, "step_size": 0.05},
    "svrg": {"batch_size": 128, "step_size": 0.3},
    "katyusha_x": {"batch_size": 128, "step_size": 0.3, "sigma": 0.1},
}
STEPS: dict[str, int] = {"svrg": 6, "katyusha_x": 6}  # else 40: these need full gradients, too


@pytest.fixture(scope="module")
def text() -> Iterator[str]:
    """The SPEC; rank 0 has the files."""
    world = MPI.COMM_WORLD
    with tempfile.TemporaryDirectory() as folder:
        data = some_of_fashion_mnist(Path(folder), 1000, 200)
        yield f"torch:model=lenet5,data={world.bcast(data)},evaluated=200"
        world.Barrier()


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_every_program_trains_lenet(comm: CheckedComm, row: Row, text: str) -> None:
    """It ends, computes exactly the gradients of its budget, and the mean model has a lower loss than the start."""
    try:
        config = configurations(row, comm.size, graphs=1)[0] | {"step_size": 0.2} | FLAGS.get(row.name, {})
    except NotApplicable as reason:
        pytest.skip(str(reason))
    problem = share(comm, text, "float32", servers=row.servers(config))
    steps, workers = STEPS.get(row.name, 40), comm.size - row.servers(config)
    outcome = execute(comm, row.program, problem, steps, dtype="float32", **config)
    made, _ = counted(comm, row, config, outcome)
    assert made == row.gradients(config, workers, steps)
    if comm.rank < workers:
        before, after = (problem.held_out(x)[0] / 50 for x in (problem.x0(), outcome.mean))
    means = comm.allgather((before, after) if comm.rank < workers else None)
    before, after = np.mean([pair for pair in means if pair], axis=0)
    assert after < 0.99 * before


@pytest.mark.parametrize(("program", "form"), [(d_psgd, d_psgd_form), (d2, d2_form)])
def test_lenet_equals_the_matrix_form(comm: CheckedComm, program: Any, form: Any, text: str) -> None:
    config = {"step_size": 0.1, "batch_size": 8, "topology": "ring:lazy=1"}
    x = execute(comm, program, share(comm, text), 10, **config).x
    X = None
    if comm.rank == 0:
        X = form.run(shares(text, comm.size), program.Config(**config, dtype="float64"), 10)
    X = comm.bcast(X)
    assert np.abs(X[0] - X[1]).max() > 1e-4
    np.testing.assert_allclose(x, X[comm.rank], rtol=0, atol=1e-10)


def test_the_perceptron_goes_the_way_of_digits(comm: CheckedComm) -> None:
    """The same trajectory of allreduce_sgd from the same start."""
    mine, its = share(comm, "digits"), share(comm, "torch:model=mlp,data=digits")
    its._x0 = as_in_torch(mine.x0())
    ends = [execute(comm, allreduce_sgd, problem, 30, step_size=0.3, batch_size=16).x for problem in (mine, its)]
    assert np.abs(ends[0] - mine.x0()).max() > 0.1
    np.testing.assert_allclose(ends[1], as_in_torch(ends[0]), rtol=0, atol=1e-12)
