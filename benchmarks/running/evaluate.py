"""Losses of a run, computed after its timed part, in float64, at the mean of the local models or at the servers'."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.problems import Problem
from outpace.comm import prox
from outpace.comm.arrays import to_host
from outpace.comm.layout import Layout

BLOCK: Final = 1 << 20  # coordinates of the points that a process evaluates at a time


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
    points, rows, x_bar = iter(points), list[dict[str, float]](), np.empty(0)
    f_star = next((problem.f_star for problem in problems), None)
    size = dim * max(1, layout.models // comm.size)  # of a point in a process, the same in all of them
    while block := list(itertools.islice(points, max(1, BLOCK // size))):
        for x_bar, g_bar, sums in _reduced(comm, layout, problems, held, dim, block, at):
            spread, loss, held_out_loss, correct, held_out = sums
            row = {
                "loss": loss + psi.value(x_bar),
                "gradient_norm": float(np.linalg.norm(g_bar)),
                "gradient_norm_1": float(np.abs(g_bar).sum()),
                "consensus": spread,
            }
            if held_out:
                row["held_out_loss"], row["accuracy"] = held_out_loss / held_out, correct / held_out
            if psi != prox.NOTHING:
                y = x_bar - g_bar
                psi.apply(y, 1.0, np.empty_like(y))
                row["prox_residual"] = float(np.linalg.norm(x_bar - y))
            elif f_star is not None:
                row["suboptimality"] = loss - f_star
            rows.append(row)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}, x_bar


def _reduced(
    comm: MPI.Intracomm,
    layout: Layout,
    problems: Sequence[Problem],
    held: Sequence[slice],
    dim: int,
    block: Sequence[Sequence[np.ndarray]],
    at: Callable[[np.ndarray], None],
) -> Iterator[tuple[np.ndarray, np.ndarray, list[float]]]:
    """Per point of the block: the mean model, the gradient there, and [spread, loss, held-out loss, correct, held-out]:
    the sum of the models' squared distances to their mean over the models, the loss at the mean, the sum of the
    held-out samples' losses there, and how many of how many are classified correctly. A block takes three Allreduces,
    however many its points."""
    X_bar, G_bar = np.zeros((len(block), dim)), np.zeros((len(block), dim))
    for values, x_bar in zip(block, X_bar, strict=True):
        for part, x in zip(held, values, strict=True):
            x_bar[part] += x
    comm.Allreduce(MPI.IN_PLACE, X_bar)
    X_bar /= layout.models
    sums = np.zeros((len(block), 5))
    for values, x_bar, g_bar, own in zip(block, X_bar, G_bar, sums, strict=True):
        at(x_bar)
        own[0] = sum(float(np.square(x - x_bar[part]).sum()) for part, x in zip(held, values, strict=True))
        for problem in problems:
            x = problem.xp.asarray(x_bar)
            g = problem.xp.empty_like(x)
            own[1] += problem.evaluate(x, g)
            g_bar += to_host(g)
            own[2:] += problem.held_out(x) or (0.0, 0, 0)
    comm.Allreduce(MPI.IN_PLACE, G_bar)
    comm.Allreduce(MPI.IN_PLACE, sums)
    G_bar /= layout.workers
    sums[:, 0] /= layout.models
    sums[:, 1] /= layout.workers
    return zip(X_bar, G_bar, sums.tolist(), strict=True)
