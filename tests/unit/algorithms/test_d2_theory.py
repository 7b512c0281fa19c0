"""D^2 in matrix form against its theory: where it is stable, what it removes, how rounding drifts.

The program equals this form to 1e-12 (the conformance table), so what holds here holds for it.
"""

import numpy as np
import pytest
from reference import d2 as d2_form
from reference import d_psgd as d_psgd_form

from outpace.algorithms import d2, d_psgd
from outpace.comm.errors import UserError


class Parabola:
    """f(x) = a/2 (x - c)^2 in one dimension, without noise."""

    n_samples = 1

    def __init__(self, a, c):
        self.a, self.c = a, c

    def x0(self):
        return np.zeros(1)

    def gradient(self, x, batch, out):
        np.multiply(self.a, x - self.c, out=out)


class Flat:
    """No objective at all: gradients are standard normal noise, independent per worker, step and coordinate."""

    n_samples = 1

    def __init__(self, worker, dim):
        self.rng, self.dim = np.random.default_rng([17, worker]), dim

    def x0(self):
        return np.zeros(self.dim)

    def gradient(self, x, batch, out):
        self.rng.standard_normal(out=out)


def parabolas(zeta, a=None):
    """The reference instance: 8 workers of unequal curvature, minima spread by zeta. (shares, common minimum)"""
    a, c = np.linspace(0.5, 1.5, 8) if a is None else a, zeta * np.linspace(-1, 1, 8)
    return [Parabola(*pair) for pair in zip(a, c, strict=True)], (a * c).sum() / a.sum()


@pytest.mark.parametrize(
    ("step_size", "mean_error", "rms_error"),
    [(0.2, 0.109, 0.375), (0.1, 0.077, 0.275), (0.05, 0.050, 0.182), (0.025, 0.029, 0.109), (0.0125, 0.016, 0.060)],
)
def test_d_psgd_is_biased_and_d2_is_not(step_size, mean_error, rms_error):
    """The error of D-PSGD falls only with the step size and is proportional to zeta; that of D^2 is rounding."""
    options = {"step_size": step_size, "topology": "ring:lazy=1", "batch_size": 1, "dtype": "float64"}
    steps = max(1000, round(100 / step_size))  # D^2's slowest mode shrinks by 0.95 in each, whatever the step size
    unit = None
    for zeta in (1, 100):
        shares, x_star = parabolas(zeta)
        error = d_psgd_form.run(shares, d_psgd.Config(**options), steps) - x_star
        unit = error if unit is None else unit
        np.testing.assert_allclose(error, zeta * unit, rtol=1e-6)
        assert np.abs(d2_form.run(shares, d2.Config(**options), steps) - x_star).max() < 1e-10 * zeta
    assert abs(unit.mean()) == pytest.approx(mean_error, abs=5e-4)
    assert np.sqrt((unit**2).mean()) == pytest.approx(rms_error, abs=5e-4)


def test_equal_curvature_hides_the_bias():
    """Of the mean model, not of the local ones; hence the tests above have unequal curvature."""
    shares, x_star = parabolas(1, a=np.ones(8))
    X = d_psgd_form.run(shares, d_psgd.Config(step_size=0.1, topology="ring", batch_size=1, dtype="float64"), 4000)
    assert abs(X.mean() - x_star) < 1e-12
    assert np.abs(X - x_star).max() > 0.1


@pytest.mark.parametrize(
    ("eigenvalue", "modulus"),
    [(-0.30, 0.92), (-1 / 3, 1.00), (-0.34, 1.015), (-0.40, 1.148), (-0.60, 1.58), (0.64, 0.8)],
)
def test_modes_of_the_recursion(eigenvalue, modulus):
    """On an eigenmode of W the recursion is r^2 - 2 lambda r + lambda = 0: stable above -1/3, and sqrt(lambda) for
    lambda in (0, 1)."""
    assert np.abs(np.roots([1, -2 * eigenvalue, eigenvalue])).max() == pytest.approx(modulus, abs=5e-3)


def consensus_variance(n, text, steps, dim=1000):
    """Mean over workers and coordinates of (x_i - x_bar)^2 after `steps`, in units of (step size * noise)^2."""
    cfg = d2.Config(step_size=0.1, topology=text, batch_size=1)
    X = d2_form.run([Flat(worker, dim) for worker in range(n)], cfg, steps)
    return np.square(X - X.mean(axis=0)).mean() / 0.1**2


def test_odd_ring_is_stable():
    assert consensus_variance(7, "ring", 1000) == pytest.approx(0.6, rel=0.1)


def test_lazy_even_ring_is_stable():
    assert consensus_variance(8, "ring:lazy=1", 1000) == pytest.approx(1.5, rel=0.1)


@pytest.mark.parametrize(("steps", "variance"), [(100, 3.9), (1000, 33), (4000, 124)])
def test_plain_even_ring_is_marginal(steps, variance):
    """Its smallest eigenvalue is -1/3: noise adds up as t / (4n). A strongly convex objective would hide it."""
    assert consensus_variance(8, "ring", steps, dim=400) == pytest.approx(variance, rel=0.15)


@pytest.fixture
def steep_ring(tmp_path):
    """A ring with weights .2, .4, .4, whose smallest eigenvalue is -0.6, as a SPEC."""
    W = 0.2 * np.eye(8) + 0.4 * (np.roll(np.eye(8), 1, axis=0) + np.roll(np.eye(8), -1, axis=0))
    np.savetxt(tmp_path / "W.txt", W)
    return f"file:path={tmp_path / 'W.txt'}"


def test_steep_ring_diverges_where_d_psgd_does_not(steep_ring):
    shares, _ = parabolas(1, a=np.ones(8))
    options = {"step_size": 0.05, "topology": steep_ring, "batch_size": 1, "dtype": "float64"}
    assert 1e33 < np.abs(d2_form.run(shares, d2.Config(**options), 200)).max() < 1e37
    assert np.abs(d_psgd_form.run(shares, d_psgd.Config(**options), 200)).max() < 1


@pytest.mark.parametrize(("n", "value"), [(4, "-0.333333"), (8, "-0.333333"), (16, "-0.333333")])
def test_even_rings_are_refused_with_value_and_remedy(n, value):
    with pytest.raises(UserError, match=rf"--topology ring: .* is {value}; .* lazy=1 .* --allow-unstable"):
        d2.Config(topology="ring").check(n)
    d2.Config(topology="ring", allow_unstable=True).check(n)
    d2.Config(topology="ring:lazy=1").check(n)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 15])
def test_odd_rings_are_allowed(n):
    d2.Config(topology="ring").check(n)
