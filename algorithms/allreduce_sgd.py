"""AllReduce-SGD: data-parallel SGD, the synchronous centralised baseline.

    x_{k+1} = x_k - gamma (1/n) sum_i grad F_i(x_k; xi_{k,i})

Every worker holds the same model. Each step waits for the slowest of all workers.
Cost per step at the busiest rank: one Allreduce of dim numbers, 2(n-1)/n dim of them sent.

The averaged gradient drives one of the rules of `comm/local_rules.py`, the same on every worker: that above, heavy-ball
momentum, Adam or AdamW.
"""

from dataclasses import dataclass
from typing import Literal

from mpi4py import MPI

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main
from outpace.comm import schedules
from outpace.comm.arrays import copy, twin
from outpace.comm.batches import Batches, Sampling
from outpace.comm.local_rules import STEP_SIZES, TITLES, Rule, local_rule
from outpace.comm.schedules import step_sizes
from outpace.comm.spec import Decay, NonNegativeFloat, PositiveFloat, PositiveInt, Seed


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat | None = None  # gamma; by default 0.2, for adam and adamw 0.05
    schedule: str = "constant"  # SPEC of gamma over the steps: constant, sqrt, step:at=30+60, cosine
    batch_size: PositiveInt = 16  # samples per gradient of one worker
    sampling: Sampling = "replacement"  # how batches are drawn: with replacement, or shuffled passes
    rule: Rule = "sgd"  # what is done with the averaged gradient
    beta1: Decay = 0.9  # decay of the momentum, or of Adam's first moment
    beta2: Decay = 0.999  # decay of Adam's second moment
    weight_decay: NonNegativeFloat = 0.0  # lambda: lambda x joins the averaged gradient; of adamw, decoupled
    dtype: Literal["float32", "float64"] = "float32"  # of model, gradients and messages
    seed: Seed = 0  # of data order, batches and delays

    by_nccl = True

    @property
    def title(self):
        return "AllReduce-SGD" if self.rule == "sgd" else TITLES[self.rule]

    def check(self, n):
        """Raise UserError for a schedule that there is not."""
        schedules.parse(self.schedule)

    def derive(self, problem):
        """The step size, for the trace."""
        return {"step_size": STEP_SIZES[self.rule] if self.step_size is None else self.step_size}


def run(comm, problem, cfg, budget, trace):
    """One worker; collective over comm. Returns the model x, shape (dim,)."""
    batches = Batches(cfg.sampling, problem.n_samples, cfg.seed, comm.rank)
    x = problem.x0()
    g = problem.xp.empty_like(x)
    g_wire = twin(g, comm)
    step_size = cfg.derive(problem)["step_size"]
    gamma = step_sizes(cfg.schedule, step_size, cfg.steps_per_epoch(problem.n_total, comm.size), budget.total)
    update, moments = local_rule(cfg, gamma, x, problem.xp)
    budget.keep(x=x, **batches.memory, **moments)
    for k in budget:
        batch = batches.draw(cfg.batch_size)
        problem.gradient(x, batch, g)
        copy(g, g_wire)
        with trace.phase("allreduce", nbytes=g.nbytes):
            comm.Allreduce(MPI.IN_PLACE, g_wire)
        copy(g_wire, g)
        trace.snapshot(x)
        update(x, g, k, comm.size)
        trace.record()
    return x


if __name__ == "__main__":
    main(run, Config)
