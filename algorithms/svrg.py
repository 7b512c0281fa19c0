"""SVRG: stochastic variance-reduced gradients (Johnson and Zhang, NeurIPS 2013, Procedure SVRG, for convex f_j), by
default with epochs of random length (Allen-Zhu, ICML 2018, arXiv:1802.03866, for f_j that need not be convex).

    x_{k+1} = y_k,   y_{k+1} = SVRG^1ep(x_{k+1})

    SVRG^1ep(x):   w_0 = x,   mu = grad f(x)
        for each inner step t:   S_t: b of the N samples, drawn with replacement
                                 v = mu + (1/b) sum_{j in S_t} (grad f_j(w_t) - grad f_j(x))
                                 w_{t+1} = prox_{eta psi}(w_t - eta v)
        return the last w

    --epoch-length       inner steps                                           eta without --step-size
    geometric            M + 1, P[M = t] = (1/m) (1 - 1/m)^t, m = ceil(N / b)  min{1, sqrt(b/m)} / (2L)
    fixed:m=             m: Johnson and Zhang's option I                       0.1 / L
    fixed:m=,option=II   t, uniform in 0 .. m - 1: their option II             0.1 / L

f = (1/N) sum f_j over the samples of all workers, psi is `--prox`. Johnson and Zhang have b = 1 and no psi. In their
option II an epoch makes m inner steps and returns w_t; those after t change nothing and are left out. A step k of the
program is an epoch: N gradients of single samples, and 2b for each inner step, with geometric lengths 3N on average.

b is the batch of all workers together: every rank draws lengths and the whole S_t from streams they share, and
computes the gradients of those samples that it holds, none if there are none. So the iterates do not depend on the
number of workers, but for rounding. Each round waits for the slowest of all workers. Cost per step at the busiest
rank: an Allreduce of dim numbers, 2(n-1)/n dim of them sent, for mu and for each inner step.

Deviations from the papers:
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
from outpace.comm import prox, spec
from outpace.comm.arrays import copy, twin
from outpace.comm.spec import PositiveFloat, PositiveInt, Seed
from outpace.comm.streams import EPOCHS, SHARED_BATCHES


@dataclass(frozen=True, kw_only=True)
class Geometric:
    """Allen-Zhu's epochs, of a random number of inner steps."""

    def steps(self, n_total, b):
        """m, from which lengths, step size and tau follow."""
        return -(-n_total // b)

    def mean(self, m):
        """Inner steps of an epoch on average."""
        return m

    def draw(self, rng, m):
        """Inner steps of the next epoch."""
        return rng.geometric(1 / m)

    def step_size(self, m, b, L):
        return min(1, (b / m) ** 0.5) / (2 * L)


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """Johnson and Zhang's epochs: option I ends with w_m, option II with w_t for a random t below m."""

    m: PositiveInt
    option: Literal["I", "II"] = "I"

    def steps(self, n_total, b):
        return self.m

    def mean(self, m):
        return m if self.option == "I" else (m - 1) / 2

    def draw(self, rng, m):
        return m if self.option == "I" else rng.integers(m)

    def step_size(self, m, b, L):
        return 0.1 / L  # their example after Theorem 1


WITHOUT_L = 0.2  # step size for a problem that does not know its smoothness, as the suite's other programs have it
EPOCH_LENGTHS = {"geometric": Geometric, "fixed": Fixed}


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat | None = None  # eta; without, from L, see above, or 0.2 where a problem has no L
    batch_size: PositiveInt = 16  # b, samples in a batch of all workers together
    epoch_length: str = "geometric"  # SPEC of the inner steps of an epoch: geometric, fixed:m=,option=I|II
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
        """Raise UserError for a psi or an epoch length that there is not."""
        prox.parse(self.prox)
        self.length()

    def length(self):
        return spec.parse(self.epoch_length, EPOCH_LENGTHS, "--epoch-length")

    def steps_per_epoch(self, n_total, n):
        """1 over the passes that an epoch of SVRG takes on average, by default about 3."""
        length = self.length()
        m = length.steps(n_total, self.batch_size)
        return 1 / (1 + 2 * self.batch_size * length.mean(m) / n_total)

    def derive(self, problem):
        """What the program takes from the problem, for the trace. Raises UserError where the two do not fit."""
        return asdict(self.constants(problem))

    def constants(self, problem):
        """m, L and eta for a sum of functions."""
        length = self.length()
        m = length.steps(problem.n_total, self.batch_size)
        L = getattr(problem, {"largest": "L", "mean-square": "L_mean_square"}[self.smoothness], None)
        eta = self.step_size or (length.step_size(m, self.batch_size, L) if L else WITHOUT_L)
        return Constants(m, L, eta)


@dataclass(frozen=True)
class Constants:
    m: int  # inner steps, by --epoch-length
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
        self.length = cfg.length()
        self.m = self.length.steps(problem.n_total, cfg.batch_size)
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
        for _ in range(self.length.draw(self.lengths, self.m)):
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
