"""Gradient tracking with stochastic gradients: DIGing (Nedic, Olshevsky, Shi, SIAM J. Optim. 27, 2017,
arXiv:1607.03218), stochastic as in DSGT (Pu and Nedic, arXiv:1805.11454).

    y_{0,i}   = g_{0,i}
    x_{k+1,i} = sum_j W_ij x_{k,j} - gamma_k y_{k,i}
    y_{k+1,i} = sum_j W_ij y_{k,j} + g_{k+1,i} - g_{k,i},   g_{k,i} = grad F_i(x_{k,i}; xi_{k,i})

Every worker tracks the mean gradient: that of the y is that of the g at every step, and the mean of the models follows
plain SGD. With exact gradients every model goes to the common minimum, however much the workers' data differ, as with
D^2. Here W may be any that is doubly stochastic, also directed or another one in every step; the price is twice the
traffic.

W x_k and W y_{k-1} are needed when g_k is there: both go out together before the gradient is computed, and the exchange
overlaps with it. Worker i waits for its neighbours only. In a directed graph these are those it hears.
Cost per step at the busiest rank: degree messages of 2 dim numbers sent.

Deviations from the papers:
1. DSGT's order is x <- W (x - gamma y). This is DIGing's, which need not wait for the gradient before it sends.
2. As y travels with the next model, y_k goes through W_{k+1} where W changes from step to step; DIGing's goes through
   W_k.
3. Rounding errors of the mean of y are never forgotten. In float64, the default, they are far below any gradient noise.
"""

from dataclasses import dataclass
from typing import Literal

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main
from outpace.comm import schedules, vectors
from outpace.comm.arrays import copy, twin
from outpace.comm.batches import Batches, Sampling
from outpace.comm.neighbourhood import neighbourhoods
from outpace.comm.schedules import step_sizes
from outpace.comm.spec import PositiveFloat, PositiveInt, Seed
from outpace.comm.topology import mixing_matrices


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat = 0.2  # gamma
    schedule: str = "constant"  # SPEC of gamma over the steps: constant, sqrt, step:at=30+60, cosine
    batch_size: PositiveInt = 16  # samples per gradient of one worker
    sampling: Sampling = "replacement"  # how batches are drawn: with replacement, or shuffled passes
    topology: str = "ring"  # SPEC of the graph, whose Metropolis weights are W
    dtype: Literal["float32", "float64"] = "float64"  # of model, gradients and messages
    seed: Seed = 0  # of data order, batches and delays
    title = "Gradient tracking"
    mixing = staticmethod(mixing_matrices)

    def check(self, n):
        """Raise UserError for a schedule that there is not."""
        schedules.parse(self.schedule)


def run(comm, problem, cfg, budget, trace):
    """One worker; collective over comm. Returns its local model x, shape (dim,)."""
    xp, dim = problem.xp, problem.dim
    x0 = problem.x0()
    mixed = xp.empty(2 * dim, x0.dtype)
    xy, neighbourhood = neighbourhoods(comm, cfg.mixing(cfg.topology, comm.size), mixed)  # x_k, then y_{k-1}
    xy_wire, x, y = twin(xy, comm), xy[:dim], xy[dim:]
    x[:], y[:] = x0, 0
    g, g_before, track = xp.empty_like(x0), xp.zeros_like(x0), vectors.track.like(x0)

    batches = Batches(cfg.sampling, problem.n_samples, cfg.seed, comm.rank)
    gamma = step_sizes(cfg.schedule, cfg.step_size, cfg.steps_per_epoch(problem.n_total, comm.size), budget.total)
    budget.keep(xy=xy, g_before=g_before, **batches.memory)
    for k in budget:
        here = neighbourhood[k % len(neighbourhood)]
        batch = batches.draw(cfg.batch_size)
        copy(xy, xy_wire)
        exchange = here.graph.Ineighbor_allgather(xy_wire, here.wire)
        problem.gradient(x, batch, g)
        with trace.phase("exchange", nbytes=here.nbytes):
            exchange.Wait()
        trace.snapshot(x)
        here.average(mixed)  # W x_k, W y_{k-1}
        track(gamma(k), mixed[dim:], mixed[:dim], g, g_before, y, x)  # y_k, x_{k+1}
        trace.record()
    for here in neighbourhood:
        here.graph.Free()
    return x


if __name__ == "__main__":
    main(run, Config)
