"""Objectives against second sources: finite differences, scikit-learn, closed forms."""

import math
import subprocess
import sys

import numpy as np
import pytest
from harness import shares
from mpi4py import MPI
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from outpace.benchmarks.problems import digits, quadratic
from outpace.benchmarks.running.evaluate import evaluate
from outpace.comm.errors import UserError
from outpace.comm.layout import Layout

TEXTS = (
    "quadratic:dim=7,zeta=1,sigma=0.5",
    "sparse-noise:dim=7,sigma=2,samples=61",
    "digits:hidden=0",
    "digits:hidden=6",
    "logistic:samples=61,dim=5,weight=0.3",
    "logistic:samples=61,dim=5,weight=0.3,penalty=nonconvex",
    "pca:samples=61,dim=5",
    "svd:samples=61,dim=5,rank=2",
)


@pytest.mark.parametrize("text", TEXTS)
def test_full_gradient_is_that_of_the_loss(text: str) -> None:
    """Central differences in random directions: a missing factor, bias or layer shows."""
    rng = np.random.default_rng(1)
    for problem in shares(text, 3):
        x = problem.x0() + 0.3 * rng.standard_normal(problem.dim)
        g = np.empty_like(x)
        problem.gradient(x, None, g)
        for _ in range(5):
            v = rng.standard_normal(problem.dim)
            v /= np.linalg.norm(v)
            slope = (problem.loss(x + 1e-5 * v) - problem.loss(x - 1e-5 * v)) / 2e-5
            assert slope == pytest.approx(g @ v, abs=1e-6)


@pytest.mark.parametrize("text", TEXTS)
def test_the_mean_of_the_samples_gradients_is_the_full_one(text: str) -> None:
    """To rounding, on every worker, also of an odd number of samples: else SGD on single samples would tend to another
    minimum than the objective's. And a batch is the mean of its samples, repeated ones counted."""
    for problem in shares(text, 3):
        x = problem.x0() + 0.1
        full, g = np.empty_like(x), np.empty_like(x)
        problem.gradient(x, None, full)
        singles = []
        for j in range(problem.n_samples):
            problem.gradient(x, np.array([j]), g)
            singles.append(g.copy())
        np.testing.assert_allclose(np.mean(singles, axis=0), full, rtol=0, atol=1e-13)
        batch = np.array([0, 3, problem.n_samples - 1, 3, 12, problem.n_samples // 2])
        problem.gradient(x, batch, g)
        np.testing.assert_allclose(g, np.mean([singles[j] for j in batch], axis=0), rtol=0, atol=1e-13)


def test_noise_has_its_standard_deviation_and_is_the_samples_own() -> None:
    """Samples j and j + n_i/2 have opposite noise, any others independent ones, on another worker too."""
    problem, second = shares("quadratic:dim=1000,sigma=0.7", 2)
    noise = []
    for share in (problem, second):
        for j in (0, 5, 256):
            g = np.empty(1000)
            share.gradient(share.c, np.array([j]), g)  # no more than noise at the worker's minimum
            assert g.std() == pytest.approx(0.7, rel=0.1)
            noise.append(g)
    correlations = np.corrcoef(noise) - np.eye(6)
    assert correlations[0, 2] == pytest.approx(-1)
    assert correlations[3, 5] == pytest.approx(-1)
    correlations[[0, 2, 3, 5], [2, 0, 5, 3]] = 0
    assert np.abs(correlations).max() < 0.15


@pytest.mark.parametrize("n", [1, 2, 5])
def test_quadratic_closed_forms(n: int) -> None:
    """Minimum, curvature and spread against the dense matrices."""
    problems = shares("quadratic:dim=6,condition=50,zeta=2", n)
    A = np.stack([np.diag(p.a) for p in problems])
    c = np.stack([p.c for p in problems])
    for worker in range(n):
        np.testing.assert_allclose(np.sort(np.diag(A[worker])), np.geomspace(1 / 50, 1, 6))
    x_star = np.linalg.solve(A.sum(axis=0), np.einsum("nij,nj->i", A, c))
    pulls = np.einsum("nij,nj->ni", A, x_star - c)
    for p in problems:
        np.testing.assert_allclose(p.x_star, x_star, rtol=1e-10)
        assert p.f_star == pytest.approx(np.mean(np.einsum("ni,ni->n", x_star - c, pulls)) / 2)
        assert p.zeta2 == pytest.approx((pulls**2).sum() / n)
        assert (p.L, p.mu) == (1, 1 / 50)
    assert {p.zeta2 for p in shares("quadratic:dim=6,condition=50", n)} == {0}
    if n > 1:
        assert (A[0] != A[1]).any()  # unequal curvatures: equal ones hide what heterogeneity does


def test_quadratic_is_the_same_whoever_builds_it() -> None:
    """Shares do not depend on how many workers there are, but for the minimum."""
    for two, five in zip(shares("quadratic:dim=5,zeta=1", 2), shares("quadratic:dim=5,zeta=1", 5), strict=False):
        assert (two.c == five.c).all()
        assert (two.a == five.a).all()


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("digits:hidden=7", [(64, 7), (7,), (7, 10), (10,)]),
        ("digits:hidden=0", [(64, 10), (10,)]),
        ("quadratic:dim=12,rows=3", [(3, 4)]),
        ("quadratic:dim=12", None),
        ("logistic:samples=8,dim=3", None),
    ],
)
def test_shapes_are_those_of_the_model(text: str, due: list[tuple[int, ...]] | None) -> None:
    (problem,) = shares(text, 1)
    assert problem.shapes == due
    assert due is None or sum(map(math.prod, due)) == problem.dim


def test_rows_change_nothing_but_the_shape() -> None:
    plain, matrix = (shares(f"quadratic:dim=12,sigma=1{rows}", 1)[0] for rows in ("", ",rows=3"))
    batch, x = np.arange(5), np.arange(12.0)
    g, h = np.empty(12), np.empty(12)
    plain.gradient(x, batch, g)
    matrix.gradient(x, batch, h)
    np.testing.assert_array_equal(g, h)
    with pytest.raises(UserError, match="rows is 5, which does not divide dim, 12"):
        shares("quadratic:dim=12,rows=5", 1)


def test_sparse_noise_closed_forms() -> None:
    """The paper's numbers by default. The noise is in the first coordinate alone, and each worker's its own; the start
    is standard normal, the seed's, and everybody's."""
    problem, second = shares("sparse-noise:dim=2000", 2)
    noise = []
    for share in (problem, second):
        g, z = np.empty(2000), np.empty(share.n_samples)
        for j in range(share.n_samples):
            share.gradient(share.x_star, np.array([j]), g)
            z[j] = g[0]
            assert not g[1:].any()
        half = len(z) // 2
        assert half == 2500
        np.testing.assert_array_equal(z[half:], -z[:half])
        assert stats.kstest(z[:half] / 100, "norm").pvalue > 0.01
        noise.append(z[:half])
    assert abs(np.corrcoef(noise)[0, 1]) < 0.06
    assert stats.kstest(problem.x0(), "norm").pvalue > 0.01
    np.testing.assert_array_equal(problem.x0(), second.x0())
    (other,) = shares("sparse-noise:dim=2000", 1, seed=1)
    assert (other.x0() != problem.x0()).all()
    assert problem.loss(problem.x_star) == problem.f_star == 0
    assert problem.L == problem.mu == 1


def test_digits_are_the_real_ones() -> None:
    """All images, once each, a fifth of them held out, pixels as scikit-learn has them."""
    everyone = shares("digits", 4)
    assert sum(p.n_samples for p in everyone) + sum(len(p.y_held_out) for p in everyone) == 1797
    assert sum(len(p.y_held_out) for p in everyone) == 360
    images = np.concatenate([np.concatenate([p.X, p.X_held_out]) for p in everyone])
    np.testing.assert_array_equal(np.sort(images.sum(axis=1)), np.sort((load_digits().data / 16).sum(axis=1)))
    labels = np.concatenate([np.concatenate([p.y, p.y_held_out]) for p in everyone])
    assert (np.bincount(labels) == np.bincount(load_digits().target)).all()


def test_digits_are_read_without_scikit_learn() -> None:
    """Whose import takes longer than anything else of a start."""
    code = (
        "import sys; from outpace.benchmarks.problems import digits; digits.images(0); print('sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


class Counted(np.ndarray):
    """An array that counts the views that are made of it."""

    views = 0

    def __array_finalize__(self, obj: object) -> None:
        Counted.views += 1


def test_a_gradient_of_digits_makes_no_views_of_its_buffers() -> None:
    """After the first one; and new buffers, whose ids are those of dead ones, are none of those before."""
    (problem,) = shares("digits", 1)
    x, g = problem.x0().view(Counted), np.empty(problem.dim).view(Counted)
    batch = np.arange(16)
    problem.gradient(x, batch, g)
    layers = problem._layers(g)
    made = Counted.views
    assert all(layer is again for layer, again in zip(layers, problem._layers(g), strict=True))
    assert Counted.views == made
    expected = np.array(g)
    for scale in range(20):
        fresh = np.full(problem.dim, float(scale))
        problem.gradient(problem.x0(), batch, fresh)
        np.testing.assert_array_equal(fresh, expected)
        del fresh
    assert len(problem._views) <= digits.VIEWED


def test_softmax_against_scikit_learn() -> None:
    """At scikit-learn's own solution: the same loss and the same predictions."""
    (problem,) = shares("digits:hidden=0", 1)
    model = LogisticRegression(C=1e3, max_iter=3000).fit(problem.X, problem.y)
    x = np.concatenate([model.coef_.T.ravel(), model.intercept_])
    log_p = model.predict_log_proba(problem.X)
    assert problem.loss(x) == pytest.approx(-log_p[np.arange(len(problem.y)), problem.y].mean(), rel=1e-9)
    correct = (model.predict(problem.X_held_out) == problem.y_held_out).sum()
    log_p = model.predict_log_proba(problem.X_held_out)
    loss = -log_p[np.arange(len(problem.y_held_out)), problem.y_held_out].sum()
    assert problem.held_out(x) == (pytest.approx(loss, rel=1e-9), correct, len(problem.y_held_out))


def test_evaluation_weighs_workers_equally() -> None:
    """All quantities at the mean model, against the definitions; two workers that hold unequal amounts of data."""
    problems = shares("quadratic:dim=4,zeta=1,samples=10", 2, split="size:ratio=4")
    models = [np.arange(4.0), np.ones(4)]
    values, x_bar = evaluate(MPI.COMM_SELF, Layout(2), problems, [slice(0, 4)] * 2, 4, [models])
    np.testing.assert_allclose(x_bar, (models[0] + models[1]) / 2)
    assert values["loss"][0] == pytest.approx(np.mean([p.loss(x_bar) for p in problems]))
    assert values["suboptimality"][0] == pytest.approx(values["loss"][0] - problems[0].f_star)
    assert values["consensus"][0] == pytest.approx(np.mean([((x - x_bar) ** 2).sum() for x in models]))
    gradients = [p.a * (x_bar - p.c) for p in problems]
    assert values["gradient_norm"][0] == pytest.approx(np.linalg.norm(np.mean(gradients, axis=0)))
    assert values["gradient_norm_1"][0] == pytest.approx(sum(abs(sum(g) / 2) for g in zip(*gradients, strict=True)))
    assert not {"held_out_loss", "accuracy"} & values.keys()  # nothing is held out


def test_evaluation_weighs_held_out_samples_equally() -> None:
    """Seven workers have 51 or 52 of the 360: the loss is no mean of their means. At two points, in float64 though the
    run is in float32, a perceptron written out."""
    problems = shares("digits:hidden=6", 7, dtype="float32")
    rng = np.random.default_rng(3)
    points = [problems[0].x0() + scale * rng.standard_normal(problems[0].dim) for scale in (0.1, 0.5)]
    values, _ = evaluate(
        MPI.COMM_SELF, Layout(7), problems, [slice(None)] * 7, len(points[0]), [[x] * 7 for x in points]
    )
    X, y = (np.concatenate([getattr(p, name) for p in problems]) for name in ("X_held_out", "y_held_out"))
    for k, x in enumerate(points):
        W_1, b_1, W_2, b_2 = np.split(x, [384, 390, 450])
        scores = np.exp(np.maximum(X @ W_1.reshape(64, 6) + b_1, 0) @ W_2.reshape(6, 10) + b_2)
        p = scores / scores.sum(axis=1, keepdims=True)
        assert values["held_out_loss"][k] == pytest.approx(-np.log(p[np.arange(360), y]).mean(), rel=1e-12)
        assert values["accuracy"][k] == pytest.approx((p.argmax(axis=1) == y).mean())


def test_evaluation_takes_the_servers_model() -> None:
    """Two servers hold a slice each: the losses are those of the whole, which agrees with itself."""
    problems, x = shares("quadratic:dim=5,zeta=1", 3), np.arange(5.0)
    layout = Layout(3, servers=2)
    held = list(layout.held(5).values())
    values, x_bar = evaluate(MPI.COMM_SELF, layout, problems, held, 5, [[x[part] for part in held]])
    np.testing.assert_array_equal(x_bar, x)
    assert values["loss"][0] == pytest.approx(np.mean([p.loss(x) for p in problems]))
    assert values["consensus"][0] == 0


def test_float32_holds_the_data_once() -> None:
    (problem,) = shares("digits", 1, dtype="float32")
    assert problem.X.dtype == np.float32
    assert problem.x0().dtype == np.float32
    assert isinstance(problem.loss(problem.x0().astype(np.float64)), float)


def test_more_workers_than_samples() -> None:
    with pytest.raises(UserError, match="too many"):
        shares("quadratic:dim=2,samples=3", 4)


def test_a_worker_of_one_sample_has_no_noise() -> None:
    """The last of an odd number has none."""
    for share in shares("quadratic:dim=3,sigma=1,samples=2", 2):
        g = np.empty(3)
        share.gradient(share.c, np.array([0, 0]), g)
        assert g.tolist() == [0.0, 0.0, 0.0]


def test_noise_is_the_same_whether_it_is_kept_or_drawn_again(monkeypatch):
    """To rounding, with samples that are drawn twice and samples that cancel."""
    batch = np.array([0, 3, 3, 5, 8, 12, 16])  # of 17: 8 is 0's opposite, and 16 has no noise
    gradients = []
    for stored in (quadratic.STORED, 0):
        monkeypatch.setattr(quadratic, "STORED", stored)
        (problem,) = shares("quadratic:dim=6,sigma=2,samples=17", 1)
        gradients.append(np.empty(6))
        problem.gradient(problem.x0(), batch, gradients[-1])
    np.testing.assert_allclose(*gradients, rtol=0, atol=1e-14)
    assert np.abs(gradients[0]).max() > 0.1
