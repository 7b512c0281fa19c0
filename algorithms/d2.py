"""D^2: decentralized training over decentralized data (Tang et al., ICML 2018, arXiv:1803.07068).

    x_{1,i}   = sum_j W_ij (x_{0,j} - gamma_0 g_{0,j}),                       x_0 the same on every worker
    x_{k+1,i} = sum_j W_ij (2 x_{k,j} - x_{k-1,j} - gamma_k g_{k,j} + gamma_{k-1} g_{k-1,j})

g_{k,j} = grad F_j(x_{k,j}; xi_{k,j}), and g_{k-1,j} is the gradient that was used in step k - 1, not a new one. The
mean of the models follows plain SGD, and with exact gradients every model goes to the common minimum, however much
the workers' data differ; D-PSGD's do not.

The gradient is part of what is sent, so the exchange cannot overlap with it. Worker i waits for its neighbours only.
Cost per step at the busiest rank: degree messages of dim numbers sent, as D-PSGD.

W must have its smallest eigenvalue above -1/3, or the models drift apart; the ring of an even number of workers
lies exactly there. `lazy=1` in the topology, (W + I) / 2, makes any W fit.

Deviations from the paper:
1. Two of the recursion's vectors are kept as one, c_k = x_k - x_{k-1} + gamma_{k-1} g_{k-1}, with c_0 = 0; what is
   sent is x_k - gamma_k g_k + c_k.
2. Rounding errors of the mean of c are never forgotten: the error of the mean model grows linearly with the steps. In
   float64, the default, it is far below any gradient noise; in float32 the recursion is restarted (c = 0) every 1000
   steps.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main
from outpace.comm import schedules, topology, vectors
from outpace.comm.arrays import copy, twin
from outpace.comm.batches import Batches, Sampling
from outpace.comm.errors import UserError
from outpace.comm.neighbourhood import neighbourhoods
from outpace.comm.schedules import step_sizes
from outpace.comm.spec import PositiveFloat, PositiveInt, Seed

SMALLEST_EIGENVALUE = -1 / 3 + 1e-9  # rounding puts the plain even ring's just above -1/3
RESTART = 1000  # steps, in float32


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat = 0.2  # gamma
    schedule: str = "constant"  # SPEC of gamma over the steps: constant, sqrt, step:at=30+60, cosine
    batch_size: PositiveInt = 16  # samples per gradient of one worker
    sampling: Sampling = "replacement"  # how batches are drawn: with replacement, or shuffled passes
    topology: str = "ring:lazy=1"  # SPEC of the graph, whose Metropolis weights are W
    allow_unstable: bool = False  # run with a W whose smallest eigenvalue is -1/3 or less
    dtype: Literal["float32", "float64"] = "float64"  # of model, gradients and messages
    seed: Seed = 0  # of data order, batches and delays
    title = "D²"

    def check(self, n):
        """Raise UserError for a graph of n workers on which D^2 does not converge, unless that is allowed, and for a
        schedule that there is not."""
        schedules.parse(self.schedule)
        smallest = topology.smallest_eigenvalue(topology.mixing_matrix(self.topology, n))
        if smallest <= SMALLEST_EIGENVALUE and not self.allow_unstable:
            lazy = "lazy=1 makes it (W + I) / 2, which is stable; --allow-unstable runs it all the same"
            raise UserError(
                f"--topology {self.topology}: the smallest eigenvalue of W for {n} workers is {smallest:.6f}; "
                f"D^2 needs more than -1/3: {lazy}"
            )


def run(comm, problem, cfg, budget, trace):
    """One worker; collective over comm. Returns its local model x, shape (dim,)."""
    xp = problem.xp
    x = problem.x0()
    h, (here,) = neighbourhoods(comm, cfg.mixing(cfg.topology, comm.size), x)  # h is what is averaged
    g, c, h_wire = xp.empty_like(x), xp.zeros_like(x), twin(h, comm)
    message, mix = vectors.d2_message.like(x), vectors.d2_mix.like(x)

    batches = Batches(cfg.sampling, problem.n_samples, cfg.seed, comm.rank)
    gamma = step_sizes(cfg.schedule, cfg.step_size, cfg.steps_per_epoch(problem.n_total, comm.size), budget.total)
    restarts = x.dtype == np.float32
    budget.keep(x=x, c=c, **batches.memory)
    for k in budget:
        batch = batches.draw(cfg.batch_size)
        problem.gradient(x, batch, g)
        if restarts and k % RESTART == 0:
            c[:] = 0
        message(gamma(k), g, x, c, h)  # h: x_k - gamma_k g_k + c_k
        copy(h, h_wire)
        with trace.phase("exchange", nbytes=here.nbytes):
            here.graph.Ineighbor_allgather(h_wire, here.wire).Wait()
        trace.snapshot(x)
        mix(here.weight, gamma(k), g, h, here.others(), c, x)  # x_{k+1}, and c_{k+1} = x_{k+1} - x_k + gamma_k g_k
        trace.record()
    here.graph.Free()
    return x


if __name__ == "__main__":
    main(run, Config)
