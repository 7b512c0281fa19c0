"""Losses of a run, computed after its timed part, in float64, at the mean of the local models."""

from collections.abc import Iterable, Sequence

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.problems import Problem


def evaluate(
    comm: MPI.Intracomm, n: int, problems: Sequence[Problem], points: Iterable[Sequence[np.ndarray]]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Evaluate every point; collective over `comm`, whose processes hold the n workers' shares between them.

    A point is the model of each worker whose share is in `problems`, shape (dim,), float64. Returns the columns of
    /evaluations that need no clock, one entry per point, and the mean model of the last point.
    """
    rows: list[dict[str, float]] = []
    x_bar = np.empty(0)
    for models in points:
        x_bar = mean_model(comm, n, models)
        spread = sum(float(np.square(x - x_bar).sum()) for x in models)
        g_bar = np.zeros_like(x_bar)
        loss, correct, held_out = 0.0, 0, 0
        for problem in problems:
            x = problem.xp.asarray(x_bar)
            g = problem.xp.empty_like(x)
            problem.gradient(x, None, g)
            g_bar += g if isinstance(g, np.ndarray) else g.get()
            loss += problem.loss(x)
            hits = problem.correct(x)
            if hits:
                correct, held_out = correct + hits[0], held_out + hits[1]
        comm.Allreduce(MPI.IN_PLACE, g_bar)
        spread, loss, correct, held_out = comm.allreduce(np.array([spread, loss, correct, held_out]))
        row = {"loss": loss / n, "gradient_norm": float(np.linalg.norm(g_bar)) / n, "consensus": spread / n}
        if held_out:
            row["accuracy"] = correct / held_out
        f_star = next((problem.f_star for problem in problems), None)
        if f_star is not None:
            row["suboptimality"] = loss / n - f_star
        rows.append(row)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}, x_bar


def mean_model(comm: MPI.Intracomm, n: int, models: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of the n workers' models of one point; collective."""
    dim = comm.allreduce(len(models[0]) if models else 0, MPI.MAX)  # a rank without a share learns the size here
    total = np.zeros(dim)
    for x in models:
        total += x
    comm.Allreduce(MPI.IN_PLACE, total)
    total /= n
    return total
