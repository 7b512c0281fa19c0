"""SVRG and Katyusha X over ranks: the same iterates for any number of them, equal loads, an agreed end, no copies."""

import tracemalloc
from types import ModuleType

import numpy as np
import pytest
from harness import CheckedComm, execute, share, shares
from mpi4py import MPI
from scipy.optimize import minimize

from outpace.algorithms import katyusha_x, svrg

PROBLEMS = ("pca:samples=120,dim=6,gap=0.01", "logistic:samples=120,dim=6,weight=0.01,penalty=nonconvex")


def in_one_process(program: ModuleType, text: str, steps: int, **config: object) -> np.ndarray:
    return execute(CheckedComm(MPI.COMM_SELF.Dup()), program, shares(text, 1)[0], steps, **config).x


@pytest.mark.parametrize("sampling", ["iid", "stratified"])
@pytest.mark.parametrize("split", ["iid", "size:ratio=6"])
def test_iterates_do_not_depend_on_the_number_of_workers(comm: CheckedComm, sampling: str, split: str) -> None:
    """To 1e-10 after 10 epochs, also where workers hold unequal amounts, and where many have no sample of a batch."""
    for program, text, b in ((katyusha_x, PROBLEMS[0], 12), (svrg, PROBLEMS[1], 12), (katyusha_x, PROBLEMS[0], 4)):
        config = {"batch_size": b, "sampling": sampling}
        x = execute(comm, program, share(comm, text, split=split), 10, **config).x
        np.testing.assert_allclose(x, in_one_process(program, text, 10, **config), rtol=0, atol=1e-10)


def test_stratified_batches_give_every_worker_the_same_load(comm: CheckedComm) -> None:
    """240 samples and b = 24 divide by 1, 2, 3, 4 and 8 workers; i.i.d. draws do not give equal loads."""
    if comm.size == 5:
        pytest.skip("24 does not divide by 5")
    problem = share(comm, "pca:samples=240,dim=3")
    for sampling in ("stratified", "iid"):
        steps = execute(comm, svrg, problem, 6, batch_size=24, sampling=sampling).steps
        loads = np.array(comm.allgather(steps["samples"].tolist()))
        if sampling == "stratified" or comm.size == 1:
            assert (loads == loads[0]).all()
        else:
            assert (loads != loads[0]).any()


@pytest.mark.ranks(1, 2, 4)
@pytest.mark.parametrize("application", ["svd", "newton", "proximal-point"])
def test_applications_reach_what_is_known(comm: CheckedComm, application: str) -> None:
    """The components of LAPACK, Newton's minimum by LAPACK, SciPy's proximal points; on any number of ranks."""
    if application == "svd":
        problem = share(comm, "svd:samples=60,dim=5,decay=2,rank=2,gap=0.05")
        x = execute(comm, katyusha_x, problem, 400, application="svd", stage=4, batch_size=20).x
        assert problem.answer(comm, x)["principal angle"] < 1e-6
        assert problem.answer(comm, x)["relative eigenvalue error"] < 1e-9
        return
    penalty = "l2" if application == "newton" else "nonconvex"
    text = f"logistic:samples=60,dim=4,weight=0.1,penalty={penalty}"
    problem = share(comm, text)
    x = execute(comm, katyusha_x, problem, 180, application=application, stage=60, batch_size=20).x
    if application == "newton":
        assert problem.answer(comm, x)["relative error"] < 1e-10
    else:
        np.testing.assert_allclose(x, proximal_points(text, 3, sigma=0.05), atol=1e-6)  # the default


def proximal_points(text: str, stages: int, sigma: float) -> np.ndarray:
    """x_{s+1} = argmin f(x) + sigma |x - x_s|^2 by SciPy."""
    (problem,) = shares(text, 1)
    x, g = problem.x0(), np.empty(problem.dim)

    def value(z: np.ndarray, x: np.ndarray) -> float:
        return problem.loss(z) + sigma * (z - x) @ (z - x)

    def slope(z: np.ndarray, x: np.ndarray) -> np.ndarray:
        problem.gradient(z, None, g)
        return g + 2 * sigma * (z - x)

    for _ in range(stages):
        x = minimize(value, x, args=(x,), jac=slope, method="BFGS", options={"gtol": 1e-10}).x
    return x


@pytest.mark.ranks(2, 3)
@pytest.mark.parametrize("application", ["svd", "newton", "proximal-point"])
def test_applications_weigh_unequal_workers_by_their_rows(comm: CheckedComm, application: str) -> None:
    """Three stages as in one process: the parts that the outer loop adds to a sum have the weights of the rows, too."""
    text = "svd:samples=60,dim=5,rank=2,gap=0.05" if application == "svd" else "logistic:samples=60,dim=4,weight=0.1"
    config = {"application": application, "stage": 4, "batch_size": 20, "regularisation": 0.05}
    x = execute(comm, katyusha_x, share(comm, text, split="size:ratio=6"), 12, **config).x
    np.testing.assert_allclose(x, in_one_process(katyusha_x, text, 12, **config), rtol=0, atol=1e-9)


@pytest.mark.parametrize("application", ["svd", "newton", "proximal-point"])
def test_applications_go_on_from_a_checkpoint_within_a_stage(comm: CheckedComm, application: str) -> None:
    """At the same bits: what a stage is made of is kept, as the state of the program is."""
    texts = {"svd": "svd:samples=60,dim=5,rank=2,gap=0.05", "newton": "logistic:samples=60,dim=4,weight=0.1"}
    problem = share(comm, texts.get(application, "logistic:samples=60,dim=4,weight=0.1,penalty=nonconvex"))
    config = {"application": application, "stage": 4, "batch_size": 20}
    x, paused = (execute(comm, katyusha_x, problem, 14, agreement=5, pause=pause, **config) for pause in (False, True))
    assert paused.pauses == 1
    np.testing.assert_array_equal(paused.x, x.x)


def test_an_application_ends_the_run_when_it_is_done(comm: CheckedComm) -> None:
    """By agreement, at the same step on every rank, long before the budget is used up."""
    problem = share(comm, "svd:samples=60,dim=4,decay=3,gap=0.2")
    steps = execute(comm, katyusha_x, problem, 5000, agreement=1, application="pca", stage=2, batch_size=30).steps
    assert len(steps) < 300
    assert len(set(comm.allgather(len(steps)))) == 1


@pytest.mark.parametrize("program", [svrg, katyusha_x])
def test_a_time_budget_ends_at_an_agreed_epoch(comm: CheckedComm, program: ModuleType) -> None:
    """Whoever's clock is first. Epochs have random lengths: a rank that left on its own would hang the others."""
    outcome = execute(comm, program, share(comm, PROBLEMS[0]), None, seconds=0.1, agreement=1, batch_size=12)
    assert len(set(comm.allgather(len(outcome.steps)))) == 1
    assert outcome.wall_s < 10


@pytest.mark.parametrize("program", [svrg, katyusha_x])
def test_a_run_holds_its_rows_once(comm: CheckedComm, program: ModuleType) -> None:
    """What a run allocates at its peak is vectors and batches, a fraction of the worker's rows; a copy of them would be
    all of it. NumPy's arrays are traced."""
    if comm.size > 4:
        pytest.skip("one size more tells nothing new")
    samples, dim, b = 4000 * comm.size, 50, 40 * comm.size
    problem = share(comm, f"pca:samples={samples},dim={dim}")
    assert problem.X.nbytes == 8 * 4000 * dim
    tracemalloc.start()
    execute(comm, program, problem, 2, batch_size=b)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * problem.X.nbytes
