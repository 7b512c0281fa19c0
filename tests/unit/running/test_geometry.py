"""Densities and signal-to-noise against closed forms."""

import numpy as np
import pytest
from harness import shares
from mpi4py import MPI
from scipy import stats

from outpace.benchmarks.running import geometry
from outpace.comm.errors import UserError


def test_quadratic() -> None:
    """Curvature and gradient are known exactly, the noise is sigma / sqrt(batch) in every coordinate."""
    (share,) = shares("quadratic:dim=400,condition=50,sigma=2,samples=40000", 1)
    x = np.random.default_rng(1).standard_normal(400)
    rows = [
        geometry.measure(MPI.COMM_SELF, 1, [share], 16, 3, number, at)[0] for number, at in enumerate((x, share.x_star))
    ]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    assert columns["curvature_density"] == pytest.approx(geometry.density(share.a), rel=1e-6)
    g = share.a * (x - share.c)
    assert columns["gradient_density"][0] == pytest.approx(geometry.density(g), rel=1e-12)
    assert columns["noise_density"] == pytest.approx(1.0, abs=1e-3)
    assert (columns["live"] == 1).all()
    snr = np.abs(g) / (2 / 4)
    for name, quantile in geometry.QUANTILES.items():
        assert columns[name][0] == pytest.approx(np.quantile(snr, quantile), rel=0.05)
        assert columns[name][1] < 1e-9  # no gradient at the minimum
    assert columns["snr_above"][0] == pytest.approx((snr > 2 / np.sqrt(3)).mean(), abs=0.02)


def test_sparse_noise() -> None:
    """All noise in one coordinate, the curvature alike in all: the densities at which signSGD gains."""
    (share,) = shares("sparse-noise:dim=50", 1)
    row, noise = geometry.measure(MPI.COMM_SELF, 1, [share], 10, 3, 0, share.x0())
    assert row["noise_density"] == pytest.approx(1 / 50)
    assert row["live"] == pytest.approx(1 / 50)
    assert row["curvature_density"] == pytest.approx(1)
    assert set(noise["coordinate"]) == {0}


def test_welford_equals_two_passes() -> None:
    (share,) = shares("digits:hidden=3", 1)
    x = np.random.default_rng(2).standard_normal(share.dim)
    g, variance = geometry.noise(share, x, geometry.one_pass(share, 16, np.random.default_rng(5)))
    order = np.random.default_rng(5).permutation(share.n_samples)
    G = np.empty((share.n_samples // 16, share.dim))
    for k, row in enumerate(G):
        share.gradient(x, order[16 * k : 16 * k + 16], row)
    np.testing.assert_allclose(variance, G.var(axis=0, ddof=1), rtol=1e-9, atol=1e-18)
    full = np.empty_like(g)
    share.gradient(x, None, full)
    np.testing.assert_array_equal(g, full)


def test_curvature_is_unbiased_and_its_density_is_not() -> None:
    """On softmax regression, against the exact diagonal: the error falls with the root of the probes, and the few of a
    run make the density as wrong as is said of it."""
    (share,) = shares("digits:hidden=0", 1)
    x, reach = np.zeros(share.dim), geometry.REACH
    ahead, behind, exact = (np.empty_like(x) for _ in range(3))
    for i in range(share.dim):
        x[i] = reach
        share.gradient(x, None, ahead)
        x[i] = -reach
        share.gradient(x, None, behind)
        x[i] = 0.0
        exact[i] = (ahead[i] - behind[i]) / (2 * reach)
    probes = np.random.default_rng(4).choice([-1.0, 1.0], (64 * geometry.PROBES, share.dim))
    few, many = (geometry.curvature(share, x, z) for z in (probes[: geometry.PROBES], probes))
    assert np.linalg.norm(many - exact) == pytest.approx(np.linalg.norm(few - exact) / 8, rel=0.2)
    assert geometry.density(exact) == pytest.approx(0.52, abs=0.01)
    assert 0.34 < geometry.density(few) < 0.42
    assert geometry.density(many) == pytest.approx(geometry.density(exact), abs=0.02)


def test_without_noise() -> None:
    """No coordinate has a ratio; a share of less than two batches has no variance."""
    everyone = shares("quadratic:dim=50", 1)
    with pytest.raises(UserError, match="two batches of 600"):
        geometry.check(everyone, 600)
    row, noise = geometry.measure(MPI.COMM_SELF, 1, everyone, 16, 0, 0, np.ones(50))
    assert row["live"] == 0  # one worker is no spread
    assert np.isnan(row["snr_p50"])
    assert not len(noise["share"])


def test_histograms() -> None:
    """Normal noise about the full gradient: shares of the bins to five standard deviations, sigma of a batch, and
    coordinates drawn anew at each evaluation."""
    (share,) = shares("quadratic:dim=40,sigma=2,samples=16000", 1)
    x = np.random.default_rng(1).standard_normal(40)
    rows = [geometry.measure(MPI.COMM_SELF, 1, [share], 16, 3, number, x)[1] for number in (0, 1)]
    chosen = [set(columns["coordinate"]) for columns in rows]
    assert [len(numbers) for numbers in chosen] == [4, 4]
    assert chosen[0] != chosen[1]
    for number, columns in enumerate(rows):
        assert (columns["evaluation"] == number).all()
        assert columns["sigma"] == pytest.approx(2 / 4, rel=0.1)
        low, found = columns["low"].reshape(4, -1), columns["share"].reshape(4, -1)
        expected = stats.norm.cdf(low + 0.5) - stats.norm.cdf(low)
        assert (np.abs(found - expected) < 5 * np.sqrt(expected / 1000) + 1e-3).all()
        assert found.sum(axis=1) == pytest.approx(1)


def test_histograms_weigh_workers_alike_and_lose_no_value() -> None:
    """Two workers with minima at -1 and 1, no other noise: two spikes. Values beyond the bins are in the outer ones."""
    everyone = shares("quadratic:dim=3,condition=1,zeta=1,samples=90", 2, split="size:ratio=8")
    columns = geometry.measure(MPI.COMM_SELF, 2, everyone, 1, 0, 0, everyone[0].x_star)[1]
    shown = columns["share"].reshape(3, -1)
    spikes = [np.flatnonzero(np.abs(geometry.EDGES[:-1] + 0.25 - at) < 0.25) for at in (-1, 1)]
    assert shown[:, np.concatenate(spikes)] == pytest.approx(0.5)
    outer = geometry.histograms(np.array([[-99.0], [99.0], [0.0], [99.0]]))
    assert outer[0, [0, 9, 18]] == pytest.approx([0.25, 0.25, 0.5])


def test_density() -> None:
    assert geometry.density(np.ones(7)) == pytest.approx(1)
    assert geometry.density(np.eye(7)[3]) == pytest.approx(1 / 7)
    assert np.isnan(geometry.density(np.zeros(7)))
