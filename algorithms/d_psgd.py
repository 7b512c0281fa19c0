"""D-PSGD: decentralized parallel SGD (Lian et al., NeurIPS 2017, arXiv:1705.09056, Algorithm 1).

    x_{k+1,i} = sum_j W_ij x_{k,j} - gamma grad F_i(x_{k,i}; xi_{k,i})

The gradient is taken at the model before averaging, so it overlaps with the exchange. Worker i waits for its
neighbours only, never for everybody; but through them a slow worker holds back the whole graph.
Cost per step at the busiest rank: degree messages of dim numbers sent.
"""

from dataclasses import dataclass
from typing import Literal

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main
from outpace.comm import schedules, topology
from outpace.comm.arrays import copy, twin
from outpace.comm.batches import Batches, Sampling
from outpace.comm.schedules import step_sizes
from outpace.comm.spec import PositiveFloat, PositiveInt, Seed


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat = 0.2  # gamma
    schedule: str = "constant"  # SPEC of gamma over the steps: constant, sqrt, step:at=30+60, cosine
    batch_size: PositiveInt = 16  # M, samples per gradient of one worker
    sampling: Sampling = "replacement"  # how batches are drawn: with replacement, or shuffled passes
    topology: str = "ring"  # SPEC of the graph, whose Metropolis weights are W
    dtype: Literal["float32", "float64"] = "float32"  # of model, gradients and messages
    seed: Seed = 0  # of data order, batches and delays
    title = "D-PSGD"

    def check(self, n):
        """Raise UserError for a schedule that there is not."""
        schedules.parse(self.schedule)


def run(comm, problem, cfg, budget, trace):
    """One worker; collective over comm. Returns its local model x, shape (dim,)."""
    W = topology.mixing_matrix(cfg.topology, comm.size)
    neighbours = topology.neighbours(W, comm.rank)
    graph = comm.Create_dist_graph_adjacent(neighbours, neighbours)

    xp = problem.xp
    x0 = problem.x0()
    X = xp.empty((1 + len(neighbours), problem.dim), x0.dtype)  # the own model, then the neighbours'
    x = X[0]
    x[:] = x0
    w = xp.asarray(W[comm.rank, [comm.rank, *neighbours]], x.dtype)
    g, x_mixed = xp.empty_like(x), xp.empty_like(x)
    x_wire, X_wire = twin(x, comm), twin(X[1:], comm)

    batches = Batches(cfg.sampling, problem.n_samples, cfg.seed, comm.rank)
    gamma = step_sizes(cfg.schedule, cfg.step_size, cfg.steps_per_epoch(problem.n_total, comm.size), budget.total)
    budget.keep(x=x, **batches.memory)
    for k in budget:
        batch = batches.draw(cfg.batch_size)  # line 2
        copy(x, x_wire)
        exchange = graph.Ineighbor_allgather(x_wire, X_wire)  # line 4, overlaps line 3
        problem.gradient(x, batch, g)  # line 3
        with trace.phase("exchange", nbytes=len(neighbours) * x.nbytes):
            exchange.Wait()
        copy(X_wire, X[1:])
        xp.dot(w, X, out=x_mixed)  # line 4
        g *= gamma(k)
        trace.snapshot(x)
        xp.subtract(x_mixed, g, out=x)  # line 5
        trace.record()
    graph.Free()
    return x


if __name__ == "__main__":
    main(run, Config)
