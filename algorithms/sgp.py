"""SGP: stochastic gradient push over directed graphs (Assran, Loizou, Ballas, Rabbat, ICML 2019, arXiv:1811.10792,
Algorithm 1).

    x_{k+1/2,i} = x_{k,i} - gamma g_{k,i},   g_{k,i} = grad F_i(z_{k,i}; xi_{k,i})
    x_{k+1,i}   = sum_j P_ij x_{k+1/2,j},    w_{k+1,i} = sum_j P_ij w_{k,j},    z_{k+1,i} = x_{k+1,i} / w_{k+1,i}

z is the model, where the gradient is taken and which is evaluated; w starts at 1. The columns of P sum to 1: worker j
gives equal parts of x_j and w_j to itself and to each that it sends to. So the sum of the x changes by gradients only
and the w sum to n, on any graph, and the bias of those that hear more than they send is taken off by the division.
Where the rows sum to 1, too, as on every regular graph, w stays 1 and z = x.

`--topology` is a graph as in other programs, a directed one or one that changes, or a file with P itself. Worker i
waits for those it hears only; it sends after its gradient, which is part of what is sent.
Cost per step at the busiest rank: as many messages of dim + 1 numbers as others hear it, one with `one-peer`.

Deviations from the paper:
1. A worker sends x and w whole, and the receiver, who knows P, takes its part.
2. Algorithm 1 without momentum; the paper's experiments have Nesterov's at each worker. Its overlap SGP is left out.
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
from outpace.comm.topology import push_matrices


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat = 0.2  # gamma
    schedule: str = "constant"  # SPEC of gamma over the steps: constant, sqrt, step:at=30+60, cosine
    batch_size: PositiveInt = 16  # samples per gradient of one worker
    sampling: Sampling = "replacement"  # how batches are drawn: with replacement, or shuffled passes
    topology: str = "one-peer"  # SPEC of the graph, along which equal parts are pushed
    dtype: Literal["float32", "float64"] = "float32"  # of model, gradients and messages
    seed: Seed = 0  # of data order, batches and delays
    title = "SGP"
    mixing = staticmethod(push_matrices)

    def check(self, n):
        """Raise UserError for a schedule that there is not."""
        schedules.parse(self.schedule)


def run(comm, problem, cfg, budget, trace):
    """One worker; collective over comm. Returns its local model z, shape (dim,)."""
    xp, dim = problem.xp, problem.dim
    z = problem.x0()
    xw = xp.ones(dim + 1, z.dtype)
    x, w = xw[:dim], xw[dim:]
    x[:] = z
    h, neighbourhood = neighbourhoods(comm, cfg.mixing(cfg.topology, comm.size), xw)
    h_wire, h_x, h_w = twin(h, comm), h[:dim], h[dim:]
    g, descend_to = xp.empty_like(z), vectors.descend_to.like(z)

    batches = Batches(cfg.sampling, problem.n_samples, cfg.seed, comm.rank)
    gamma = step_sizes(cfg.schedule, cfg.step_size, cfg.steps_per_epoch(problem.n_total, comm.size), budget.total)
    budget.keep(xw=xw, z=z, **batches.memory)
    for k in budget:
        here = neighbourhood[k % len(neighbourhood)]
        batch = batches.draw(cfg.batch_size)  # line 1
        problem.gradient(z, batch, g)  # line 2
        descend_to(gamma(k), g, x, h_x)  # line 3
        h_w[:] = w
        copy(h, h_wire)
        with trace.phase("exchange", nbytes=here.nbytes):
            here.graph.Ineighbor_allgather(h_wire, here.wire).Wait()  # line 4
        trace.snapshot(z)
        here.average(xw)  # lines 5 and 6
        xp.divide(x, w, out=z)  # line 7
        trace.record()
    for here in neighbourhood:
        here.graph.Free()
    return z


if __name__ == "__main__":
    main(run, Config)
