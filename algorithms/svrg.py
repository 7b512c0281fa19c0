"""SVRG: stochastic variance-reduced gradients, with epochs of random length (Johnson and Zhang, NeurIPS 2013; the form
of Allen-Zhu, ICML 2018, arXiv:1802.03866, for sums of functions that need not be convex one by one).

    x_{k+1} = y_k,   y_{k+1} = SVRG^1ep(x_{k+1})

    SVRG^1ep(x):   m = ceil(N / b),   w_0 = x,   mu = grad f(x),   M ~ Geom(1/m),   P[M = t] = (1/m) (1 - 1/m)^t
        for t = 0 .. M:   S_t: b of the N samples, drawn with replacement
                          v = mu + (1/b) sum_{j in S_t} (grad f_j(w_t) - grad f_j(x))
                          w_{t+1} = prox_{eta psi}(w_t - eta v)
        return w_{M+1}

f = (1/N) sum f_j over the samples of all workers, psi is `--prox`; eta = min{1, sqrt(b/m)} / (2L) unless `--step-size`
is given. A step k of the program is such an epoch: N + 2 b (M + 1) gradients of single samples, 3N on average.

b is the batch of all workers together: every rank draws M and the whole S_t from streams they share, and computes the
gradients of those samples that it holds, none if there are none. So the iterates do not depend on the number of
workers, but for rounding. Each round waits for the slowest of all workers. Cost per step at the busiest rank:
M + 2 Allreduces of dim numbers, 2(n-1)/n dim of them sent each.

Deviations from the paper:
1. `--sampling stratified` draws one sample from each of b equal blocks of the samples, in the order in which the
   workers hold them: unbiased, of less variance, and every worker has the same load where the numbers divide.
2. Where workers hold unequal amounts n_i, f is the suite's objective (1/n) sum_i mean of worker i's f_j: a drawn sample
   of worker i counts N / (n n_i), which keeps v unbiased.
"""

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main
from outpace.comm import prox
from outpace.comm.arrays import copy, twin
from outpace.comm.errors import UserError
from outpace.comm.spec import PositiveFloat, PositiveInt, Seed
from outpace.comm.streams import EPOCHS, SHARED_BATCHES


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat | None = None  # eta; without, min{1, sqrt(b/m)} / (2L)
    batch_size: PositiveInt = 16  # b, samples in a batch of all workers together
    smoothness: Literal["largest", "mean-square"] = "largest"  # which L: of the f_j, or of their mean square
    sampling: Literal["iid", "stratified"] = "iid"  # b of all samples, or one of each of b equal blocks
    prox: str = "none"  # SPEC of psi: none, l1:weight=, l2:weight=, ball:radius=
    dtype: Literal["float32", "float64"] = "float64"  # of model, gradients and messages
    seed: Seed = 0  # of data, batches, epoch lengths and delays

    agreement_period = 1  # a step is long, and full of collectives

    @property
    def title(self):
        return "SVRG, stratified" if self.sampling == "stratified" else "SVRG"

    def check(self, n):
        """Raise UserError for a psi that there is not."""
        prox.parse(self.prox)

    def steps_per_epoch(self, n_total, n):
        """1 over the passes that an epoch of SVRG takes on average, which is about 3."""
        return 1 / (1 + 2 * self.batch_size * -(-n_total // self.batch_size) / n_total)

    def derive(self, problem):
        """What the program takes from the problem, for the trace. Raises UserError where the two do not fit."""
        return asdict(self.constants(problem))

    def constants(self, problem):
        """m, L and eta for a sum of functions. Raises UserError where it has no L and no step size is given."""
        m = -(-problem.n_total // self.batch_size)
        L = getattr(problem, {"largest": "L", "mean-square": "L_mean_square"}[self.smoothness], None)
        eta = self.step_size or (min(1, (self.batch_size / m) ** 0.5) / (2 * L) if L else None)
        if eta is None:
            raise UserError(f"--step-size is needed: this problem does not know its {self.smoothness} smoothness")
        return Constants(m, L, eta)


@dataclass(frozen=True)
class Constants:
    m: int  # mean number of inner steps
    L: float | None  # smoothness of the f_j, by --smoothness
    step_size: float  # eta


def run(comm, problem, cfg, budget, trace):
    """One worker; collective over comm. Returns the model y, shape (dim,)."""
    epoch = Epoch(comm, problem, cfg, trace)
    eta = cfg.constants(problem).step_size
    y = problem.x0()
    x = problem.xp.empty_like(y)
    budget.keep(y=y, lengths=epoch.lengths, batches=epoch.batches)
    for _ in budget:
        trace.snapshot(y)
        x[:] = y
        epoch(x, y, eta)
        trace.record()
    return y


class Epoch:
    """SVRG^1ep; making one and calling it are collective over comm."""

    def __init__(self, comm, problem, cfg, trace):
        self.comm, self.problem, self.cfg, self.trace = comm, problem, cfg, trace
        self.prox = prox.parse(cfg.prox)
        amounts = np.empty(comm.size, dtype=np.int64)
        comm.Allgather(np.array([problem.n_samples]), amounts)
        self.first = int(amounts[: comm.rank].sum())  # the samples are numbered from worker to worker
        self.end = self.first + problem.n_samples
        self.per_sample = problem.n_total / (comm.size * problem.n_samples) / cfg.batch_size
        self.m = -(-problem.n_total // cfg.batch_size)
        self.lengths = np.random.default_rng([EPOCHS, cfg.seed])
        self.batches = np.random.default_rng([SHARED_BATCHES, cfg.seed])
        self.mu, self.g, self.h = (problem.xp.empty_like(problem.x0()) for _ in range(3))
        self.mu_wire, self.g_wire = twin(self.mu, comm), twin(self.g, comm)

    def __call__(self, x, w, eta):
        """w <- SVRG^1ep(x) with step size eta"""
        problem, g, h = self.problem, self.g, self.h
        problem.gradient(x, None, self.mu)
        self.sum(self.mu, self.mu_wire)
        self.mu /= self.comm.size
        w[:] = x
        for _ in range(self.lengths.geometric(1 / self.m)):  # M + 1
            batch = self.draw()  # S_t
            mine = batch[(batch >= self.first) & (batch < self.end)] - self.first
            if len(mine):
                problem.gradient(w, mine, g)
                problem.gradient(x, mine, h)
                g -= h
                g *= len(mine) * self.per_sample
            else:
                g[:] = 0
            self.sum(g, self.g_wire)
            g += self.mu  # v
            g *= eta
            w -= g
            self.prox.apply(w, eta, g)

    def draw(self):
        """The b numbers of a batch, of all samples, the same on every rank."""
        b, N = self.cfg.batch_size, self.problem.n_total
        if self.cfg.sampling == "iid":
            return self.batches.integers(N, size=b)
        places = (np.arange(b) + self.batches.random(b)) * (N / b)
        return np.minimum(places.astype(np.int64), N - 1)  # the last may round up

    def sum(self, g, g_wire):
        """g <- the sum of all ranks' g"""
        copy(g, g_wire)
        with self.trace.phase("allreduce", nbytes=g.nbytes):
            self.comm.Allreduce(MPI.IN_PLACE, g_wire)
        copy(g_wire, g)


if __name__ == "__main__":
    main(run, Config)
