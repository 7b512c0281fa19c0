"""`--geometry`: what of a gradient is signal, what is noise, and how evenly both are spread over the coordinates.

The density of v is phi(v) = |v|_1^2 / (dim |v|_2^2), from 1/dim for one coordinate alone to 1 for all alike. With
curvatures L and noise sigma, signSGD is as fast as SGD or faster where neither sqrt(phi(L)) nor phi(sigma) is much
larger than phi(g) (arXiv:1802.04434). The signal-to-noise ratio of a coordinate is S = |g| / sigma; above CRITICAL the
chance of a wrong sign falls with 1/S^2 (arXiv:1810.05291, Lemma 1).
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.evaluate import mean_model
from outpace.benchmarks.problems import Problem
from outpace.comm.arrays import to_host
from outpace.comm.spec import UserError
from outpace.comm.streams import GEOMETRY

CRITICAL: Final = 2 / math.sqrt(3)
PROBES: Final = 16  # of the curvature
REACH: Final = 1e-4  # how far from the model a probe looks
QUANTILES: Final = {"snr_p5": 0.05, "snr_p25": 0.25, "snr_p50": 0.5, "snr_p75": 0.75, "snr_p95": 0.95}


def check(problem: Problem, batch_size: int) -> None:
    """Raise UserError where a worker's share is too small for a variance."""
    if problem.n_samples < 2 * batch_size:
        raise UserError(
            f"--geometry: a worker holds {problem.n_samples} samples; it needs two batches of {batch_size} or more"
        )


def survey(
    comm: MPI.Intracomm,
    n: int,
    problem: Problem,
    points: Iterable[Sequence[np.ndarray]],
    batch_size: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """The columns of /geometry that need no clock, at the mean model of every point; collective, one worker a rank."""
    rows = []
    for number, models in enumerate(points):
        x = problem.xp.asarray(mean_model(comm, n, models))
        own, variance = noise(problem, x, batch_size, np.random.default_rng([GEOMETRY, seed, comm.rank + 1, number]))
        g = _mean(comm, n, own)
        # A worker's gradient is off by its batch, and by its data.
        sigma = np.sqrt(_mean(comm, n, variance + (own - g) ** 2))
        probes = np.random.default_rng([GEOMETRY, seed, 0, number]).choice([-1.0, 1.0], (PROBES, problem.dim))
        L = np.abs(_mean(comm, n, curvature(problem, x, probes)))
        live = sigma > 0
        snr = np.abs(g[live]) / sigma[live]
        row = {"gradient_density": density(g), "noise_density": density(sigma), "curvature_density": density(L)}
        row |= {name: float(np.quantile(snr, q)) if snr.size else math.nan for name, q in QUANTILES.items()}
        row |= {"snr_above": float((snr > CRITICAL).mean()) if snr.size else math.nan, "live": float(live.mean())}
        rows.append(row)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def density(v: np.ndarray) -> float:
    """phi(v); NaN for zeros.

    >>> density(np.array([1.0, -1.0, 1.0, 1.0])), density(np.array([0.0, 5.0, 0.0, 0.0]))
    (1.0, 0.25)
    """
    squares = float(v @ v)
    return float(np.abs(v).sum()) ** 2 / (v.size * squares) if squares else math.nan


def noise(problem: Problem, x: Any, batch_size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """This worker's full gradient, and the variance of a batch's by coordinate: Welford over one pass, shape (dim,)."""
    g = problem.xp.empty_like(x)
    mean, squares = problem.xp.zeros_like(x), problem.xp.zeros_like(x)
    count = problem.n_samples // batch_size
    batches = rng.permutation(problem.n_samples)[: count * batch_size].reshape(count, batch_size)
    for k, batch in enumerate(batches, 1):
        problem.gradient(x, batch, g)
        change = g - mean
        mean += change / k
        squares += change * (g - mean)
    problem.gradient(x, None, g)
    return to_host(g), to_host(squares) / (count - 1)


def curvature(problem: Problem, x: Any, probes: np.ndarray) -> np.ndarray:
    """The diagonal of this worker's Hessian by Hutchinson's estimator: the mean of z (H z) over signs z."""
    ahead, behind = problem.xp.empty_like(x), problem.xp.empty_like(x)
    diagonal = problem.xp.zeros_like(x)
    for probe in problem.xp.asarray(probes):
        problem.gradient(x + REACH * probe, None, ahead)
        problem.gradient(x - REACH * probe, None, behind)
        diagonal += probe * (ahead - behind)
    return to_host(diagonal) / (2 * REACH * len(probes))


def _mean(comm: MPI.Intracomm, n: int, v: np.ndarray) -> np.ndarray:
    total = np.array(v)
    comm.Allreduce(MPI.IN_PLACE, total)
    total /= n
    return total
