"""AllReduce-SGD: data-parallel SGD, the synchronous centralised baseline.

    x_{k+1} = x_k - gamma (1/n) sum_i grad F_i(x_k; xi_{k,i})

Every worker holds the same model. Each step waits for the slowest of all workers.
Cost per step at the busiest rank: one Allreduce of dim numbers, 2(n-1)/n dim of them sent.

The averaged gradient may drive another local rule, the same on every worker: heavy-ball momentum,
v <- beta v + g, x <- x - gamma v (Polyak 1964), or Adam (Kingma and Ba, ICLR 2015, arXiv:1412.6980, Algorithm 1).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main
from outpace.comm.arrays import copy, twin
from outpace.comm.spec import Decay, PositiveFloat, PositiveInt, Seed
from outpace.comm.streams import BATCHES


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat = 0.2  # gamma
    batch_size: PositiveInt = 16  # samples per gradient of one worker
    rule: Literal["sgd", "momentum", "adam"] = "sgd"  # what is done with the averaged gradient
    beta1: Decay = 0.9  # decay of the momentum, or of Adam's first moment
    beta2: Decay = 0.999  # decay of Adam's second moment
    dtype: Literal["float32", "float64"] = "float32"  # of model, gradients and messages
    seed: Seed = 0  # of data order, batches and delays

    @property
    def title(self):
        return {"sgd": "AllReduce-SGD", "momentum": "Momentum SGD", "adam": "Adam"}[self.rule]


def run(comm, problem, cfg, budget, trace):
    """One worker; collective over comm. Returns the model x, shape (dim,)."""
    rng = np.random.default_rng([BATCHES, cfg.seed, comm.rank])
    x = problem.x0()
    g = problem.xp.empty_like(x)
    g_wire = twin(g, comm)
    update, moments = RULES[cfg.rule](cfg, x, problem.xp)
    budget.keep(x=x, rng=rng, **moments)
    for k in budget:
        batch = rng.integers(problem.n_samples, size=cfg.batch_size)
        problem.gradient(x, batch, g)
        copy(g, g_wire)
        with trace.phase("allreduce", nbytes=g.nbytes):
            comm.Allreduce(MPI.IN_PLACE, g_wire)
        copy(g_wire, g)
        g /= comm.size
        trace.snapshot(x)
        update(x, g, k)
        trace.record()
    return x


# Each rule returns update(x, g, k), which writes x and may use g as scratch, so that no step allocates a vector, and
# its moments by name.


def sgd(cfg, x, xp):
    def update(x, g, k):
        g *= cfg.step_size
        x -= g

    return update, {}


def momentum(cfg, x, xp):
    v = xp.zeros_like(x)

    def update(x, g, k):
        v[:] *= cfg.beta1
        v[:] += g
        xp.multiply(v, cfg.step_size, out=g)
        x -= g

    return update, {"v": v}


def adam(cfg, x, xp):
    m, v, scratch, epsilon = xp.zeros_like(x), xp.zeros_like(x), xp.empty_like(x), 1e-8

    def update(x, g, k):
        m[:] *= cfg.beta1
        v[:] *= cfg.beta2
        xp.multiply(g, g, out=scratch)
        scratch[:] *= 1 - cfg.beta2
        v[:] += scratch
        g *= 1 - cfg.beta1
        m[:] += g
        xp.divide(v, 1 - cfg.beta2 ** (k + 1), out=scratch)  # v-hat
        xp.sqrt(scratch, out=scratch)
        scratch[:] += epsilon
        xp.divide(m, scratch, out=g)
        g *= cfg.step_size / (1 - cfg.beta1 ** (k + 1))  # m-hat
        x -= g

    return update, {"m": m, "v": v}


RULES = {"sgd": sgd, "momentum": momentum, "adam": adam}

if __name__ == "__main__":
    main(run, Config)
