"""D-PSGD: decentralized parallel SGD (Lian et al., NeurIPS 2017, arXiv:1705.09056, Algorithm 1).

    consensus       x_{k+1,i} = sum_j W_ij x_{k,j} - gamma grad F_i(x_{k,i}; xi_{k,i})
    adapt-combine   x_{k+1,i} = sum_j W_ij (x_{k,j} - gamma grad F_j(x_{k,j}; xi_{k,j}))

The first is the paper's: the gradient is taken at the model before averaging, so it overlaps with the exchange. The
second (adapt-then-combine: Sayed, Adaptation, learning, and optimization over networks, 2014) averages the gradients
with the models, and waits for the gradient before it sends. Worker i waits for its neighbours only, never for
everybody; but through them a slow worker holds back the whole graph. In a directed graph neighbours are those it hears.
Cost per step at the busiest rank: degree messages of dim numbers sent.

Deviation from the paper:
1. W need be doubly stochastic only, not symmetric, and may change from step to step: the exponential graphs
   (`--topology static-exponential`, `one-peer`) are Ying et al.'s, NeurIPS 2021, arXiv:2110.13363, whose W_k is that of
   step k.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main
from outpace.comm import bfloat16, schedules, vectors
from outpace.comm.arrays import copy, twin
from outpace.comm.batches import Batches, Sampling
from outpace.comm.bfloat16 import WireDtype, WireFormat
from outpace.comm.neighbourhood import neighbourhoods
from outpace.comm.schedules import step_sizes
from outpace.comm.spec import PositiveFloat, PositiveInt, Seed
from outpace.comm.topology import mixing_matrices


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat = 0.2  # gamma
    schedule: str = "constant"  # SPEC of gamma over the steps: constant, sqrt, step:at=30+60, cosine
    batch_size: PositiveInt = 16  # M, samples per gradient of one worker
    sampling: Sampling = "replacement"  # how batches are drawn: with replacement, or shuffled passes
    topology: str = "ring"  # SPEC of the graph, whose Metropolis weights are W
    order: Literal["consensus", "adapt-combine"] = "consensus"  # models are averaged before their gradients, or after
    dtype: Literal["float32", "float64"] = "float32"  # of model, gradients and messages
    wire_dtype: WireDtype = "same"  # of models in messages: as they are, or halves of float32, rounded at random
    seed: Seed = 0  # of data order, batches, delays and rounding
    mixing = staticmethod(mixing_matrices)
    younger = MappingProxyType({"order": "consensus", "wire_dtype": "same"})

    @property
    def title(self):
        return "D-PSGD" if self.order == "consensus" else "D-PSGD, adapt-combine"

    def check(self, n):
        """Raise UserError for a schedule that there is not, and for messages that are no halves."""
        schedules.parse(self.schedule)
        bfloat16.check(self.wire_dtype, self.dtype)


def run(comm, problem, cfg, budget, trace):
    """One worker; collective over comm. Returns its local model x, shape (dim,)."""
    xp = problem.xp
    x0 = problem.x0()
    form = WireFormat(cfg.wire_dtype, cfg.seed, comm.rank)
    h, neighbourhood = neighbourhoods(comm, cfg.mixing(cfg.topology, comm.size), x0, form)  # h is what is averaged
    overlaps = cfg.order == "consensus"
    x = h if overlaps else xp.empty_like(h)
    x[:] = x0
    h_words = form.like(h)
    h_wire, g = twin(h_words, comm), xp.empty_like(x)
    descend_to = vectors.descend_to.like(x)
    mix_and_descend = vectors.mix_and_descend.like(x)

    batches = Batches(cfg.sampling, problem.n_samples, cfg.seed, comm.rank)
    gamma = step_sizes(cfg.schedule, cfg.step_size, cfg.steps_per_epoch(problem.n_total, comm.size), budget.total)
    budget.keep(x=x, **batches.memory, **form.memory)
    for k in budget:
        here = neighbourhood[k % len(neighbourhood)]
        batch = batches.draw(cfg.batch_size)  # line 2
        if overlaps:
            form.narrow(h, h_words)
            copy(h_words, h_wire)
            exchange = here.graph.Ineighbor_allgather(h_wire, here.wire)  # line 4, overlaps line 3
        problem.gradient(x, batch, g)  # line 3
        if not overlaps:
            descend_to(gamma(k), g, x, h)
            form.narrow(h, h_words)
            copy(h_words, h_wire)
            exchange = here.graph.Ineighbor_allgather(h_wire, here.wire)
        with trace.phase("exchange", nbytes=here.nbytes):
            exchange.Wait()
        trace.snapshot(x)
        if overlaps:
            mix_and_descend(here.weight, gamma(k), g, here.others(), x)  # lines 4 and 5
        else:
            here.average(x)
        trace.record()
    for here in neighbourhood:
        here.graph.Free()
    return x


if __name__ == "__main__":
    main(run, Config)
