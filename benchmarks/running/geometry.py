"""`--geometry`: what of a gradient is signal, what is noise, and how evenly both are spread over the coordinates.

The density of v is phi(v) = |v|_1^2 / (dim |v|_2^2), from 1/dim for one coordinate alone to 1 for all alike. With
curvatures L and noise sigma, signSGD is as fast as SGD or faster where neither sqrt(phi(L)) nor phi(sigma) is much
larger than phi(g) (arXiv:1802.04434). The signal-to-noise ratio of a coordinate is S = |g| / sigma; above CRITICAL the
chance of a wrong sign falls with 1/S^2 (arXiv:1810.05291, Lemma 1).

The density of the curvature is rough. Each entry of the estimated diagonal is right on average, but its noise, of
variance sum_{j != i} H_ij^2 / PROBES, adds to |.|_1 and |.|_2 and pulls phi towards the noise's own density. phi is
exact where H is diagonal; at the start of `digits` it is 0.2 for 0.05, and without a hidden layer 0.36 to 0.40 for
0.52. Halves of the probes would make |.|_2^2 unbiased, but not |.|_1, and their quotient is worse.

The Lemma supposes noise that is unimodal and symmetric. Histograms of it in DRAWN random coordinates show how far that
holds, as Figure 2 of arXiv:1802.04434 does.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.problems import Problem
from outpace.comm.arrays import to_host
from outpace.comm.errors import UserError
from outpace.comm.streams import GEOMETRY

CRITICAL: Final = 2 / math.sqrt(3)
PROBES: Final = 16  # of the curvature
REACH: Final = 1e-4  # how far from the model a probe looks
DRAWN: Final = 4  # coordinates with a histogram at an evaluation
EDGES: Final = np.arange(-4.75, 5.0, 0.5)  # of its bins, in units of sigma
QUANTILES: Final = {"snr_p5": 0.05, "snr_p25": 0.25, "snr_p50": 0.5, "snr_p75": 0.75, "snr_p95": 0.95}


def check(shares: Sequence[Problem], batch_size: int) -> None:
    """Raise UserError where a worker's share is too small for a variance."""
    for share in shares:
        if share.n_samples < 2 * batch_size:
            raise UserError(
                f"--geometry: a worker holds {share.n_samples} samples; it needs two batches of {batch_size}"
            )


def measure(
    comm: MPI.Intracomm, n: int, shares: Sequence[Problem], batch_size: int, seed: int, number: int, x_bar: np.ndarray
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Evaluation `number`, at x_bar: a row of /geometry but for its time, and rows of /noise, DRAWN times the bins or
    fewer. Collective, a rank has one share or none."""
    own, variance, bent = (np.zeros((len(shares), x_bar.size)) for _ in range(3))
    common = np.random.default_rng([GEOMETRY, seed, 0, number])
    probes = common.choice([-1.0, 1.0], (PROBES, x_bar.size))
    rng = np.random.default_rng([GEOMETRY, seed, comm.rank + 1, number])
    passes = [one_pass(share, batch_size, rng) for share in shares]
    for i, (share, batches) in enumerate(zip(shares, passes, strict=True)):
        x = share.xp.asarray(x_bar)
        own[i], variance[i] = noise(share, x, batches)
        bent[i] = curvature(share, x, probes)
    g = _mean(comm, n, own)
    # A worker's gradient is off by its batch, and by its data.
    sigma = np.sqrt(_mean(comm, n, variance + (own - g) ** 2))
    live = sigma > 0
    snr = np.abs(g[live]) / sigma[live]
    row = {
        "gradient_density": density(g),
        "noise_density": density(sigma),
        "curvature_density": density(_mean(comm, n, bent)),
    }
    row |= {name: float(np.quantile(snr, q)) if snr.size else math.nan for name, q in QUANTILES.items()}
    row |= {"snr_above": float((snr > CRITICAL).mean()) if snr.size else math.nan, "live": float(live.mean())}

    drawn = common.permutation(np.flatnonzero(live & np.isfinite(sigma)))[:DRAWN]
    bins = np.zeros((len(shares), len(drawn), len(EDGES) - 1))
    for i, (share, batches) in enumerate(zip(shares, passes, strict=True)):
        values = gradients(share, share.xp.asarray(x_bar), batches, drawn)
        bins[i] = histograms((values - g[drawn]) / sigma[drawn])
    columns: dict[str, Any] = {"evaluation": number, "coordinate": drawn[:, None], "sigma": sigma[drawn, None]}
    columns |= {"low": EDGES[:-1], "share": _mean(comm, n, bins)}
    return row, {name: np.broadcast_to(column, bins.shape[1:]).ravel() for name, column in columns.items()}


def density(v: np.ndarray) -> float:
    """phi(v); NaN for zeros.

    >>> density(np.array([1.0, -1.0, 1.0, 1.0])), density(np.array([0.0, 5.0, 0.0, 0.0]))
    (1.0, 0.25)
    """
    squares = float(v @ v)
    return float(np.abs(v).sum()) ** 2 / (v.size * squares) if squares else math.nan


def one_pass(problem: Problem, batch_size: int, rng: np.random.Generator) -> np.ndarray:
    """This worker's samples in random order, in whole batches, shape (batches, batch_size)."""
    count = problem.n_samples // batch_size
    return rng.permutation(problem.n_samples)[: count * batch_size].reshape(count, batch_size)


def noise(problem: Problem, x: Any, batches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """This worker's full gradient, and the variance of a batch's by coordinate: Welford over one pass, shape (dim,)."""
    g = problem.xp.empty_like(x)
    mean, squares = problem.xp.zeros_like(x), problem.xp.zeros_like(x)
    for k, batch in enumerate(batches, 1):
        problem.gradient(x, batch, g)
        change = g - mean
        mean += change / k
        squares += change * (g - mean)
    problem.gradient(x, None, g)
    return to_host(g), to_host(squares) / (len(batches) - 1)


def gradients(problem: Problem, x: Any, batches: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    """The gradients of the batches at some coordinates, shape (batches, coordinates)."""
    g, values = problem.xp.empty_like(x), np.empty((len(batches), len(coordinates)))
    for row, batch in zip(values, batches, strict=True):
        problem.gradient(x, batch, g)
        row[:] = to_host(g[coordinates])
    return values


def histograms(values: np.ndarray) -> np.ndarray:
    """The share of each column's values in each bin, shape (columns, bins); the outer bins hold what lies beyond."""
    inside = np.clip(values.T, EDGES[0], EDGES[-1])
    return np.array([np.histogram(column, EDGES)[0] for column in inside]).reshape(-1, len(EDGES) - 1) / len(values)


def curvature(problem: Problem, x: Any, probes: np.ndarray) -> np.ndarray:
    """The diagonal of this worker's Hessian by Hutchinson's estimator: the mean of z (H z) over signs z. Unbiased."""
    ahead, behind = problem.xp.empty_like(x), problem.xp.empty_like(x)
    diagonal = problem.xp.zeros_like(x)
    for probe in problem.xp.asarray(probes):
        problem.gradient(x + REACH * probe, None, ahead)
        problem.gradient(x - REACH * probe, None, behind)
        diagonal += probe * (ahead - behind)
    return to_host(diagonal) / (2 * REACH * len(probes))


def _mean(comm: MPI.Intracomm, n: int, rows: np.ndarray) -> np.ndarray:
    """The mean over n workers whose rows, shape (., ...), the ranks have between them."""
    total: np.ndarray = rows.sum(axis=0)
    comm.Allreduce(MPI.IN_PLACE, total)
    total /= n
    return total
