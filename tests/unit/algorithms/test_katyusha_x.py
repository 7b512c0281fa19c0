"""SVRG and Katyusha X in one process: the paper's identities, laws of its draws, and its one-epoch inequality."""

from pathlib import Path
from typing import Any

import device_on_cpu
import harness
import numpy as np
import pytest
from harness import CheckedComm, execute, share, shares
from mpi4py import MPI
from reference import katyusha_x as form
from reference import svrg as svrg_form
from scipy.optimize import minimize
from scipy.stats import chisquare
from sklearn.datasets import dump_svmlight_file, load_digits

from outpace.algorithms import katyusha_x, svrg
from outpace.benchmarks.problems import applications
from outpace.benchmarks.problems.logistic import newton
from outpace.benchmarks.trace.recorder import Trace
from outpace.benchmarks.trace.schema import KIND
from outpace.benchmarks.trace.snapshots import Snapshots
from outpace.comm import prox
from outpace.comm.errors import UserError

REFERENCE = "pca:samples=200,dim=8,gap=0.005"


def alone() -> CheckedComm:
    return CheckedComm(MPI.COMM_SELF.Dup())


def epochs(problem: Any, **config: Any) -> svrg.Epoch:
    comm, cfg = alone(), svrg.Config(**config)
    return svrg.Epoch(comm, problem, cfg, Trace(comm, Snapshots(0, problem.dim, np.dtype("f8"), per_step=True)))


def test_with_tau_one_half_it_is_svrg_to_the_bit() -> None:
    (problem,) = shares(REFERENCE, 1)
    plain = execute(alone(), svrg, problem, 12, batch_size=10)
    momentum = execute(alone(), katyusha_x, problem, 12, batch_size=10, sigma=1e9)
    assert (plain.x == momentum.x).all()
    assert (plain.x != execute(alone(), katyusha_x, problem, 12, batch_size=10).x).any()


@pytest.mark.parametrize("variant", ["s", "w"])
@pytest.mark.parametrize("text", [REFERENCE, "logistic:samples=150,dim=6,weight=0.002"])
def test_it_equals_the_coupling_form_of_the_proof(variant: str, text: str) -> None:
    """To 1e-10 over 30 epochs with the same draws; a wrong y_{-1} or an offset in k shows at once."""
    (problem,) = shares(text, 1)
    cfg = katyusha_x.Config(batch_size=10, variant=variant)
    tau = cfg.constants(problem).tau
    assert tau is None or 0 < tau < 0.4  # a clipped tau would be SVRG
    ys = form.coupled([problem], cfg, 30)
    x = execute(alone(), katyusha_x, problem, 30, batch_size=10, variant=variant).x
    np.testing.assert_allclose(x, ys[-1], rtol=0, atol=1e-10 * np.linalg.norm(ys[-1]))


@pytest.mark.parametrize(
    ("program", "reference", "config"),
    [
        (svrg, svrg_form, {}),
        (svrg, svrg_form, {"smoothness": "mean-square"}),
        (svrg, svrg_form, {"epoch_length": "fixed:m=40"}),
        (svrg, svrg_form, {"epoch_length": "fixed:m=40,option=II"}),
        (katyusha_x, form, {"prox": "l2:weight=0.01"}),
        (katyusha_x, form, {"variant": "w", "prox": "l2:weight=0.01"}),
        (katyusha_x, form, {"epoch_length": "fixed:m=40"}),
    ],
)
def test_what_is_not_given_follows_the_papers(program: Any, reference: Any, config: dict[str, Any]) -> None:
    """m, eta, sigma, which has psi's part, and tau: as the reference works them out for itself."""
    problems = shares("logistic:samples=150,dim=6,weight=0.002", 1)
    expected = reference.run(problems, program.Config(batch_size=11, **config), 12)[0]
    x = execute(alone(), program, problems[0], 12, batch_size=11, **config).x
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("variant", ["s", "w"])
def test_every_stage_of_an_application_begins_anew(variant: str) -> None:
    """Proximal points as runs of their own, one after the other: momentum or its weights that live on would show."""
    problems = shares("logistic:samples=120,dim=5,weight=0.1,penalty=nonconvex", 1)
    flags = {"application": "proximal-point", "regularisation": 0.03, "variant": variant, "batch_size": 12, "stage": 5}
    expected = form.proximal_points(problems, katyusha_x.Config(**flags), 4)
    x = execute(alone(), katyusha_x, problems[0], 20, **flags).x
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-12)


SUMS: list[tuple[str, dict[str, Any]]] = [
    ("logistic:samples=50,dim=4,weight=0.1,penalty=nonconvex", {"application": "proximal-point"}),
    ("logistic:samples=50,dim=4,weight=0.1,penalty=nonconvex", {"application": "newton"}),
    ("svd:samples=50,dim=12,rank=2,gap=1e-4", {"application": "svd"}),
]


@pytest.mark.parametrize(("text", "config"), SUMS)
def test_constants_of_a_stages_sum_against_its_hessians(text: str, config: dict[str, Any]) -> None:
    """L is the largest curvature of a sample, where made rows of length 1 reach it; L_mean_square and mu are bounds: mu
    from below, which for svd, after a few power steps only, needs the shift to be above the eigenvalue itself."""
    (problem,) = shares(text, 1)
    comm, cfg = alone(), katyusha_x.Config(**config)
    task = applications.begin(cfg, problem, comm, Trace(comm, Snapshots(0, problem.dim, np.dtype("f8"), per_step=True)))
    total = task.sum
    task.pose(total.x0())
    g, h = np.empty((2, total.dim))

    def hessian(j: int) -> np.ndarray:
        """By central differences at 0, where the curvature of `logistic` is largest."""
        rows = []
        for e in 1e-4 * np.eye(total.dim):
            total.gradient(e, np.array([j]), g)
            total.gradient(-e, np.array([j]), h)
            rows.append((g - h) / 2e-4)
        return np.array(rows)

    H = np.array([hessian(j) for j in range(total.n_samples)])
    assert np.linalg.norm(H, 2, axis=(1, 2)).max() == pytest.approx(total.L, rel=1e-6)
    assert np.linalg.eigvalsh(np.mean(H @ H, axis=0))[-1] <= total.L_mean_square**2 * (1 + 1e-6)
    assert np.linalg.eigvalsh(H.mean(axis=0))[0] >= total.mu * (1 - 1e-6)


def test_where_tau_is_clipped() -> None:
    """1/2 sqrt(m eta sigma) is below 1/2 from kappa = sqrt(N)/2 on, for b up to sqrt(N); with larger b from less on."""
    for L_over_sigma, b, expected in [
        (9, 1, 0.5),
        (9, 16, 0.5),
        (32, 1, 0.3536),
        (482, 32, 0.0911),
        (482, 256, 0.0322),
    ]:
        (problem,) = shares("quadratic:dim=2", 1)
        problem.mu = problem.L / L_over_sigma
        constants = katyusha_x.Config(batch_size=b).constants(problem)
        assert constants.m == -(-1024 // b)
        assert constants.tau == pytest.approx(expected, abs=1e-4)
        assert constants.step_size == min(0.5, b**0.5 / (2 * constants.m**0.5))


def test_inner_steps_are_geometric_with_mean_m() -> None:
    """The rounds that the program really made: their mean within 3 standard errors, their law by chi-square."""
    (problem,) = shares("quadratic:dim=2", 1)
    outcome = execute(alone(), svrg, problem, 1500, batch_size=128, step_size=0.01)
    m = 8
    rounds = np.bincount(outcome.events["step"][outcome.events["kind"] == KIND["allreduce"]])
    inner = rounds - 1  # the full gradient's
    assert len(inner) == 1500
    assert abs(inner.mean() - m) <= 3 * np.sqrt(m * (m - 1) / len(inner))
    probabilities = 1 / m * (1 - 1 / m) ** np.arange(20)
    seen = np.append(np.bincount(inner, minlength=21)[1:21], (inner > 20).sum())
    assert chisquare(seen, 1500 * np.append(probabilities, 1 - probabilities.sum())).pvalue > 1e-3
    assert (outcome.steps["samples"] == 1024 + 2 * 128 * inner).all()


def test_option_two_ends_before_any_of_the_m_steps_alike() -> None:
    """After t inner steps with t uniform in 0 .. m - 1, by chi-square; option I always after m."""
    (problem,) = shares("quadratic:dim=2", 1)
    for text, number in (("fixed:m=8,option=II", 800), ("fixed:m=8", 5)):
        outcome = execute(alone(), svrg, problem, number, batch_size=128, step_size=0.01, epoch_length=text)
        inner = np.bincount(outcome.events["step"][outcome.events["kind"] == KIND["allreduce"]]) - 1
        assert (outcome.steps["samples"] == 1024 + 2 * 128 * inner).all()
        if text.endswith("II"):
            assert inner.max() < 8
            assert chisquare(np.bincount(inner, minlength=8)).pvalue > 1e-3
        else:
            assert (inner == 8).all()


def test_passes_of_an_epoch() -> None:
    """`--epochs` counts passes: one, and two for every N / b inner steps on average."""
    for text, passes in (("geometric", 3), ("fixed:m=50", 11), ("fixed:m=41,option=II", 5)):
        assert svrg.Config(batch_size=10, epoch_length=text).steps_per_epoch(100, 3) == pytest.approx(1 / passes)


@pytest.mark.parametrize("b", [1, 7, 60, 64])
def test_stratified_draws_are_uniform_and_one_of_each_block(b: int) -> None:
    """Every sample has the same chance, also where b does not divide their number."""
    (problem,) = shares("pca:samples=60,dim=3", 1)
    epoch = epochs(problem, batch_size=b, sampling="stratified")
    counts = np.zeros(60)
    for _ in range(20_000 // b):
        drawn = epoch.draw()
        assert (np.floor(drawn * b / 60) <= np.arange(b)).all()
        assert (np.ceil((drawn + 1) * b / 60) >= np.arange(b) + 1).all()
        counts += np.bincount(drawn, minlength=60)
    mean = counts.sum() / 60
    assert np.abs(counts - mean).max() <= 5 * np.sqrt(mean)
    if b == 60:
        assert (counts == counts[0]).all()


@pytest.mark.parametrize("sampling", ["iid", "stratified"])
def test_the_estimator_is_unbiased(sampling: str) -> None:
    """Over many one-step epochs the mean step is that of the full gradient, to 5 standard errors per coordinate."""
    (problem,) = shares("logistic:samples=90,dim=4,weight=0.1", 1)
    epoch = epochs(problem, batch_size=8, sampling=sampling)
    epoch.lengths = Once(2)  # the second step has v with variance
    x = np.array([2.0, -1.0, 0.5, 1.0])
    g, first, steps = np.empty(4), np.empty(4), []
    problem.gradient(x, None, g)
    first[:] = x - 0.5 * g
    problem.gradient(first, None, g)
    w = np.empty(4)
    for _ in range(4000):
        epoch(x, w, 0.5)
        steps.append((first - w) / 0.5)
    error = np.std(steps, axis=0) / np.sqrt(len(steps))
    assert (np.abs(np.mean(steps, axis=0) - g) <= 5 * error).all()
    assert (error > 0).all()


class Once:
    """In place of the stream of lengths: always the same."""

    def __init__(self, length: int) -> None:
        self.length = length

    def geometric(self, p: float) -> int:
        return self.length


@pytest.mark.parametrize(("b", "times", "holds"), [(1, 1, True), (8, 1, True), (8, 16, False)])
def test_one_epoch_inequality(b: int, times: int, holds: bool) -> None:
    """E[F(w) - F(u)] <= E[-|w - x|^2 / (4 m eta) + <x - w, x - u> / (m eta) - sigma/4 |w - u|^2], N = 200, for several
    u: over 250 epochs, one-sided at three standard errors. The control, 16 times the step size, violates it."""
    (problem,) = shares(REFERENCE, 1)
    rng = np.random.default_rng(8)
    constants = katyusha_x.Config(batch_size=b).constants(problem)
    eta, sigma = times * constants.step_size, constants.sigma
    m_eta = constants.m * eta
    epoch, w = epochs(problem, batch_size=b), np.empty(8)
    x = problem.x_star + rng.standard_normal(8)
    us = [problem.x_star, x, problem.x_star + rng.standard_normal(8), np.zeros(8)]
    excess = []
    for _ in range(250):
        epoch(x, w, eta)
        row = []
        for u in us:
            right = -((w - x) @ (w - x)) / (4 * m_eta) + (x - w) @ (x - u) / m_eta - sigma / 4 * (w - u) @ (w - u)
            row.append(problem.loss(w) - problem.loss(u) - right)
        excess.append(row)
    mean, error = np.mean(excess, axis=0), np.std(excess, axis=0) / np.sqrt(len(excess))
    assert bool((mean <= 3 * error).all()) is holds, (mean, error)


PROXES = ("none", "l1:weight=0.7", "l2:weight=0.7", "ball:radius=1.5")


@pytest.mark.parametrize("text", PROXES)
def test_proximal_steps_against_scipy(text: str) -> None:
    """The step minimises psi(y) + |y - v|^2 / (2 eta)."""
    psi, rng = prox.parse(text), np.random.default_rng(4)
    for eta in (0.1, 2.0):
        v = 2 * rng.standard_normal(3)
        y = v.copy()
        psi.apply(y, eta, np.empty(3))

        def objective(z: np.ndarray, v: np.ndarray = v, eta: float = eta) -> float:
            return psi.value(z) + (z - v) @ (z - v) / (2 * eta)

        found = minimize(objective, 0.9 * y, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14})
        assert objective(y) <= found.fun + 1e-9
        if not text.startswith("ball"):  # where the simplex stalls at the border
            np.testing.assert_allclose(y, found.x, atol=1e-4)


@pytest.mark.parametrize("program", [svrg, katyusha_x])
@pytest.mark.parametrize("text", PROXES[1:])
def test_composite_objectives_are_minimised(program: Any, text: str) -> None:
    """The residual |x - prox(x - grad f(x))| falls below 1e-8; a prox once per epoch would leave it."""
    (problem,) = shares("logistic:samples=200,dim=6,weight=0.02", 1)
    text = text.replace("0.7", "0.02")  # large enough to make some coordinates zero, small enough to leave some
    x = execute(alone(), program, problem, 60, batch_size=14, prox=text).x
    g = np.empty(6)
    problem.gradient(x, None, g)
    y = x - g
    prox.parse(text).apply(y, 1.0, np.empty(6))
    assert np.linalg.norm(x - y) <= 1e-8
    if text.startswith("l1"):
        assert 0 < (x == 0).sum() < 6


def test_newton_on_a_data_file_goes_as_plain_newton_does(tmp_path: Path) -> None:
    """Digits below 5 against the others, as a LIBSVM file: each stage ends at plain Newton's next iterate, by LAPACK,
    to 1e-6 of its length, and the fifth at the minimum, which the stages approach quadratically."""
    pixels, labels = load_digits(return_X_y=True)
    dump_svmlight_file(pixels, np.where(labels < 5, 1, -1), str(tmp_path / "digits.txt"), zero_based=False)
    (problem,) = shares(f"libsvm:path={tmp_path / 'digits.txt'},weight=0.01", 1)
    plain = newton(problem.X, problem.y, 0.01)
    errors = []
    for stage in range(1, 6):
        flags: dict[str, Any] = {"application": "newton", "stage": 40, "batch_size": 42}
        x = execute(alone(), katyusha_x, problem, 40 * stage, **flags).x
        expected, _ = plain[min(stage, len(plain) - 1)]
        assert np.linalg.norm(x - expected) <= 1e-6 * np.linalg.norm(expected), stage
        errors.append(np.linalg.norm(x - problem.x_star) / np.linalg.norm(problem.x_star))
    assert errors[2] < errors[1] ** 1.5
    assert errors[-1] < 1e-10


ON_DEVICE: list[tuple[Any, str, dict[str, Any]]] = [
    (svrg, "logistic:samples=60,dim=4,weight=0.1", {"prox": "l1:weight=0.01", "sampling": "stratified"}),
    (svrg, "logistic:samples=60,dim=4,weight=0.1,penalty=nonconvex", {"prox": "l2:weight=0.1"}),
    (katyusha_x, "pca:samples=60,dim=4", {"prox": "ball:radius=0.5", "variant": "w"}),
    (katyusha_x, "svd:samples=60,dim=4,rank=2", {"sigma": 0.1, "step_size": 0.1}),
    (katyusha_x, "svd:samples=60,dim=4,rank=2", {"application": "svd", "stage": 3}),
    (katyusha_x, "logistic:samples=60,dim=4,weight=0.1", {"application": "newton", "stage": 3}),
    (katyusha_x, "logistic:samples=60,dim=4,weight=0.1", {"application": "proximal-point", "stage": 3}),
]


@pytest.mark.parametrize(("program", "text", "config"), ON_DEVICE)
def test_on_a_device_it_is_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: Any, text: str, config: dict[str, Any]
) -> None:
    """On the stand-in for CuPy: no NumPy array among a device's, no silent copy, and the same numbers."""
    expected = execute(alone(), program, share(alone(), text), 8, batch_size=12, **config).x
    monkeypatch.setattr(harness, "backend", device_on_cpu.install(monkeypatch, tmp_path))
    problem = share(alone(), text)
    x = execute(alone(), program, problem, 8, batch_size=12, **config).x
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-12)
    assert problem.loss(problem.xp.asarray(x)) == pytest.approx(shares(text, 1)[0].loss(x), abs=1e-12)
    assert np.isfinite([*problem.answer(alone(), x).values()]).all()


def test_what_programs_need_of_a_problem() -> None:
    (digits,) = shares("digits:hidden=0", 1)
    (bent,) = shares("logistic:samples=30,dim=2,weight=0.1,penalty=nonconvex", 1)
    assert svrg.Config().derive(digits) == {"m": 90, "L": None, "step_size": 0.2}
    with pytest.raises(UserError, match="--sigma is needed"):
        katyusha_x.Config(step_size=0.1).derive(digits)
    with pytest.raises(UserError, match="not convex"):
        katyusha_x.Config().derive(bent)
    with pytest.raises(UserError, match=r"needs more than 0\.025 here"):
        katyusha_x.Config(application="proximal-point", regularisation=0.02).derive(bent)
    with pytest.raises(UserError, match="does not fit the problem; allowed: svd"):
        katyusha_x.Config(application="pca").derive(bent)
    assert svrg.Config().derive(bent)["L"] == bent.L
    assert svrg.Config(smoothness="mean-square").derive(bent)["L"] == bent.L_mean_square < bent.L
    assert katyusha_x.Config(step_size=0.1, variant="w").derive(digits)["tau"] is None
    assert katyusha_x.Config(application="proximal-point").derive(bent) == {}


def test_components_that_are_found_are_taken_out_of_every_gradient() -> None:
    """Of the full sum and of a batch, at a vector that is partly along them, against dense matrices."""
    (problem,) = shares("svd:samples=60,dim=8,rank=3", 1)
    shifted = applications.ShiftedSum(problem)
    basis = np.linalg.qr(np.random.default_rng(5).standard_normal((8, 2)))[0].T
    shifted.V[:2], shifted.numbers[:] = basis, (2, 7.0)
    shifted.b[:] = np.random.default_rng(6).standard_normal(8)
    u, g = np.random.default_rng(7).standard_normal(8), np.empty(8)
    P = np.eye(8) - basis.T @ basis
    for batch in (None, np.array([3, 3, 41])):
        S = np.array([_product(problem, column, batch) for column in np.eye(8)])
        shifted.gradient(u, batch, g)
        np.testing.assert_allclose(g, 7 * u - P @ S @ P @ u - shifted.b, atol=1e-12)


def _product(problem: Any, u: np.ndarray, batch: np.ndarray | None) -> np.ndarray:
    out = np.empty_like(u)
    problem.product(None, u, batch, out)
    return out
