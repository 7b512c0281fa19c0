"""Losses of a run, computed after its timed part, in float64, at the mean of the local models or at the servers'."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.problems import Problem
from outpace.comm import prox
from outpace.comm.server import Layout


def evaluate(
    comm: MPI.Intracomm,
    layout: Layout,
    problems: Sequence[Problem],
    held: Sequence[slice],
    dim: int,
    points: Iterable[Sequence[np.ndarray]],
    at: Callable[[np.ndarray], None] = lambda x_bar: None,
    psi: prox.Prox = prox.NOTHING,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Evaluate every point; collective over `comm`, whose processes have the workers' shares and the layout's models
    between them: this one `problems`, and the `held` slices of models of size `dim`.

    A point is the values of those slices, float64; `at` is called with the mean model of each. `psi` is what the
    objective has beside the problem's. Returns the columns of /evaluations that need no clock, one entry per point,
    and the mean model of the last point.
    """
    n, rows = layout.workers, list[dict[str, float]]()
    x_bar = np.empty(dim)
    for values in points:
        x_bar[:] = 0
        for part, x in zip(held, values, strict=True):
            x_bar[part] += x
        comm.Allreduce(MPI.IN_PLACE, x_bar)
        x_bar /= layout.models
        at(x_bar)
        spread = sum(float(np.square(x - x_bar[part]).sum()) for part, x in zip(held, values, strict=True))
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
        g_bar /= n
        row = {
            "loss": loss / n + psi.value(x_bar),
            "gradient_norm": float(np.linalg.norm(g_bar)),
            "consensus": spread / layout.models,
        }
        if held_out:
            row["accuracy"] = correct / held_out
        f_star = next((problem.f_star for problem in problems), None)
        if psi != prox.NOTHING:
            y = x_bar - g_bar
            psi.apply(y, 1.0, np.empty_like(y))
            row["prox_residual"] = float(np.linalg.norm(x_bar - y))
        elif f_star is not None:
            row["suboptimality"] = loss / n - f_star
        rows.append(row)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}, x_bar
