"""CHOCO-SGD: gossip with compressed messages (Koloskova, Stich and Jaggi, ICML 2019, arXiv:1902.00340, Algorithm 2).

    x_i  <- x_i - gamma grad F_i(x_i; xi_i)                      each worker i by itself
    x^_i <- x^_i + C(x_i - x^_i)                                 at i and at its neighbours, x^ = 0 at first
    x_i  <- x_i + eta sum_j W_ij (x^_j - x^_i)

Every worker has a public copy x^ of its own and each neighbour's model, the same to the bit wherever it is kept, and
only what changes in it is sent, compressed by C. What C leaves out stays in x - x^ and is sent later: error feedback,
by which any contraction will do, however coarse. eta is `--consensus-step-size`; the coarser C, the smaller eta must
be. With `--compressor identity` and eta = 1 this is x <- W (x - gamma g). The mean of the models follows plain SGD.

The gradient is part of what is sent, so the exchange cannot overlap with it. Worker i waits for its neighbours only.
Cost per step at the busiest rank: degree messages of the size told in `comm/compressors.py`, where the compressors are.

Deviations from the paper:
1. All the x^_j are kept. The memory-efficient form keeps their sum s_i = sum_j W_ij x^_j, whose rounding errors are
   never forgotten: in float32 they would move the mean of the models for ever.
2. QSGD's levels go out in B bits each, without its Elias code, whose length would differ from rank to rank.
3. The sign of a zero is tossed.
4. The paper's eta follows from C and W and is small; it tunes eta in its experiments, and the default here is ours.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main
from outpace.comm import schedules, spec, topology, vectors
from outpace.comm.arrays import Wired
from outpace.comm.batches import Batches, Sampling
from outpace.comm.compressors import COMPRESSORS
from outpace.comm.schedules import step_sizes
from outpace.comm.spec import PositiveFloat, PositiveInt, Probability, Seed
from outpace.comm.streams import CODEC


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat = 0.2  # gamma
    schedule: str = "constant"  # SPEC of gamma over the steps: constant, sqrt, step:at=30+60, cosine
    batch_size: PositiveInt = 16  # samples per gradient of one worker
    sampling: Sampling = "replacement"  # how batches are drawn: with replacement, or shuffled passes
    topology: str = "ring"  # SPEC of the graph, whose Metropolis weights are W
    compressor: str = "sign"  # SPEC of C: identity, sign, top-k:share=0.01, qsgd:levels=7
    consensus_step_size: Probability = 0.2  # eta
    dtype: Literal["float32", "float64"] = "float32"  # of models, gradients and the reals in messages
    seed: Seed = 0  # of data order, batches, delays and rounding
    title = "CHOCO-SGD"

    def check(self, n):
        """Raise UserError for a compressor or a schedule that there is not."""
        schedules.parse(self.schedule)
        spec.parse(self.compressor, COMPRESSORS, "--compressor")


def run(comm, problem, cfg, budget, trace):
    """One worker; collective over comm. Returns its local model x, shape (dim,)."""
    W = topology.mixing_matrix(cfg.topology, comm.size)
    neighbours = topology.neighbours(W, comm.rank)
    graph = comm.Create_dist_graph_adjacent(neighbours, neighbours)

    xp = problem.xp
    x = problem.x0()
    X_hat = xp.zeros((1 + len(neighbours), problem.dim), x.dtype)  # its own, then the neighbours'
    weights = W[comm.rank, [comm.rank, *neighbours]]
    weights[0] -= 1
    w = xp.asarray(cfg.consensus_step_size * weights, x.dtype)
    g, descend = xp.empty_like(x), vectors.descend.like(x)
    codec = spec.parse(cfg.compressor, COMPRESSORS, "--compressor").codec(x, xp)
    messages = Wired((len(X_hat), codec.message_words), np.uint32, xp, comm)
    nbytes = 4 * codec.message_words

    batches = Batches(cfg.sampling, problem.n_samples, cfg.seed, comm.rank)
    rounding = np.random.default_rng([CODEC, cfg.seed, comm.rank])
    gamma = step_sizes(cfg.schedule, cfg.step_size, cfg.steps_per_epoch(problem.n_total, comm.size), budget.total)
    budget.keep(x=x, x_hat=X_hat, rounding=rounding, **batches.memory)
    for k in budget:
        batch = batches.draw(cfg.batch_size)
        problem.gradient(x, batch, g)  # line 2
        trace.snapshot(x)
        descend(gamma(k), 1, g, x)  # line 3
        xp.subtract(x, X_hat[0], out=g)
        codec.encode(g, rounding, messages.array[0])  # line 4
        messages.to_wire(0)
        with trace.phase("exchange", nbytes=len(neighbours) * nbytes):
            graph.Ineighbor_allgather(messages.wire[0], messages.wire[1:]).Wait()  # line 6
        for message, x_hat in zip(messages.from_wire(), X_hat, strict=True):
            codec.add(message, x_hat)  # line 7
        xp.dot(w, X_hat, out=g)
        x += g  # line 9
        trace.record()
    graph.Free()
    return x


if __name__ == "__main__":
    main(run, Config)
