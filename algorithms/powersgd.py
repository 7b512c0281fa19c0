"""PowerSGD: gradients as matrices of low rank, with error feedback (Vogels, Karimireddy and Jaggi, NeurIPS 2019,
arXiv:1905.13727, Algorithms 1 and 2).

    D_w <- g_w + e_w                                                  worker w, each matrix M of D_w by itself:
    P <- mean_w M_w Q,  P^ <- an orthonormal basis of P's columns     P has min(r, rows, columns) columns
    Q_w <- M_w' P^,  e_w <- M_w - P^ Q_w',  Q <- mean_w Q_w           Q is kept, to begin with in the next step
    m <- lambda m + P^ Q',  x <- x - gamma (P^ Q' + m)

One step of the power iteration for the mean of the M_w: from step to step Q turns to its leading r right singular
vectors. What is left out stays in e_w. A parameter of more than one axis is a matrix of its first axis by all others;
those of one axis are averaged whole, and nothing is left of them. Without compression, at full rank, the mean gradient
arrives whole. r is `--rank`.

Every worker holds the same model. Each step waits for the slowest of all workers, twice.
Cost per step at the busiest rank: two Allreduces, of r rows for each matrix with the parameters of one axis, and of r
columns for each matrix, in place of one of rows x columns: 2(n-1)/n of them sent.

Deviations from the paper:
1. e_w <- D_w - P^ Q_w', with the worker's own Q_w, as Algorithm 2 has it; the authors' code takes the mean Q. Both have
   the same mean over workers, which is all that the model sees, but of the latter a worker's difference from the mean
   gradient is never forgotten and grows, where data differ.
2. An orthonormal basis by Householder's QR, not by Gram and Schmidt: it is one also where columns of P depend on one
   another. The model depends on the space alone.
3. With `--momentum 0` there is no m, and x <- x - gamma P^ Q'; the line as it stands would move twice as far.
4. Weight decay, which the paper's experiments have, is left out.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main
from outpace.comm import schedules, vectors
from outpace.comm.arrays import Wired
from outpace.comm.batches import Batches, Sampling
from outpace.comm.errors import UserError
from outpace.comm.schedules import step_sizes
from outpace.comm.spec import Decay, PositiveFloat, PositiveInt, Seed
from outpace.comm.streams import PROJECTION


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat = 0.02  # gamma; in the end a gradient moves x by (1 + 1 / (1 - lambda)) of it
    schedule: str = "constant"  # SPEC of gamma over the steps: constant, sqrt, step:at=30+60, cosine
    batch_size: PositiveInt = 16  # samples per gradient of one worker
    sampling: Sampling = "replacement"  # how batches are drawn: with replacement, or shuffled passes
    rank: PositiveInt = 2  # r
    momentum: Decay = 0.9  # lambda
    dtype: Literal["float32", "float64"] = "float32"  # of model, gradients and messages
    seed: Seed = 0  # of data order, batches, delays and the first Q
    title = "PowerSGD"

    def check(self, n):
        """Raise UserError for a schedule that there is not."""
        schedules.parse(self.schedule)

    def derive(self, problem):
        """Nothing for the trace. Raises UserError for a problem without matrices."""
        if not problem.shapes or max(map(len, problem.shapes)) < 2:
            raise UserError(
                "the parameters of this problem are no matrices, which PowerSGD compresses; "
                "allowed: --problem digits, torch:model=,data=, quadratic:dim=,rows="
            )
        return {}


def run(comm, problem, cfg, budget, trace):
    """One worker; collective over comm. Returns the model x, shape (dim,)."""
    xp = problem.xp
    x = problem.x0()
    g, e = xp.empty_like(x), xp.zeros_like(x)
    m = xp.zeros_like(x) if cfg.momentum else None
    descend = vectors.descend.like(x)
    factors = Factors(problem.shapes, cfg.rank, e, g, xp, comm)
    start = np.random.default_rng([PROJECTION, cfg.seed]).standard_normal(factors.Q.array.size)
    factors.Q.array[:] = xp.asarray(start.astype(x.dtype))  # Algorithm 1, line 1

    batches = Batches(cfg.sampling, problem.n_samples, cfg.seed, comm.rank)
    gamma = step_sizes(cfg.schedule, cfg.step_size, cfg.steps_per_epoch(problem.n_total, comm.size), budget.total)
    budget.keep(x=x, e=e, q=factors.Q.array, **({} if m is None else {"m": m}), **batches.memory)
    for k in budget:
        batch = batches.draw(cfg.batch_size)
        problem.gradient(x, batch, g)  # Algorithm 2, line 6
        e += g  # line 7: D_w
        factors.project()  # Algorithm 1, line 3
        mean(factors.P, comm, trace)  # line 4
        factors.split()  # lines 5 and 6; Algorithm 2, line 9
        mean(factors.Q, comm, trace)  # Algorithm 1, line 7
        factors.multiply()  # Algorithm 2, line 11
        if m is not None:
            m *= cfg.momentum  # line 12
            m += g
            g += m
        trace.snapshot(x)
        descend(gamma(k), 1, g, x)  # line 13
        trace.record()
    return x


def mean(message, comm, trace):
    """The message, a Wired array, <- its mean over all workers."""
    message.to_wire()
    with trace.phase("allreduce", nbytes=message.nbytes):
        comm.Allreduce(MPI.IN_PLACE, message.wire)
    message.from_wire()
    message.array /= comm.size


class Factors:
    """The matrices among the parameters, of these shapes, in a vector D as products P Q'; the vectors among them are
    part of P, as they are. G, like D, takes the products. P and Q are all matrices', one after the other."""

    def __init__(self, shapes, rank, D, G, xp, comm):
        shapes = [(shape[0], math.prod(shape[1:])) if len(shape) > 1 else shape for shape in shapes]
        ranks = [min(rank, *shape) if len(shape) > 1 else 0 for shape in shapes]
        left = [(shape[0], r) if r else shape for shape, r in zip(shapes, ranks, strict=True)]
        right = [(shape[-1] if r else 0, r) for shape, r in zip(shapes, ranks, strict=True)]
        self.P, self.Q = (Wired((sum(map(math.prod, each)),), D.dtype, xp, comm) for each in (left, right))
        pairs = (D, shapes), (G, shapes), (self.P.array, left), (self.Q.array, right)
        self.parts = list(zip(*itertools.starmap(cut, pairs), strict=True))
        self.xp = xp

    def project(self):
        """P <- D Q"""
        for D, _, P, Q in self.parts:
            if D.ndim > 1:
                self.xp.matmul(D, Q, out=P)
            else:
                P[:] = D

    def split(self):
        """P <- a basis of its columns, Q <- D' P, D <- D - P Q'"""
        for D, G, P, Q in self.parts:
            if D.ndim > 1:
                P[:] = self.xp.linalg.qr(P)[0]
                self.xp.matmul(D.T, P, out=Q)
                self.xp.matmul(P, Q.T, out=G)
                D -= G
            else:
                D[:] = 0

    def multiply(self):
        """G <- P Q'"""
        for _, G, P, Q in self.parts:
            if G.ndim > 1:
                self.xp.matmul(P, Q.T, out=G)
            else:
                G[:] = P


def cut(v, shapes):
    """The vector v in consecutive parts of these shapes, as views.

    >>> [part.tolist() for part in cut(np.arange(6), [(2, 2), (2,)])]
    [[[0, 1], [2, 3]], [4, 5]]
    """
    ends = itertools.accumulate(map(math.prod, shapes))
    return [v[end - math.prod(shape) : end].reshape(shape) for end, shape in zip(ends, shapes, strict=True)]


if __name__ == "__main__":
    main(run, Config)
