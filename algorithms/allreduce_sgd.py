"""AllReduce-SGD: data-parallel SGD, the synchronous centralised baseline.

    x_{k+1} = x_k - gamma (1/n) sum_i grad F_i(x_k; xi_{k,i})

Every worker holds the same model. Each step waits for the slowest of all workers.
Cost per step at the busiest rank: one Allreduce of dim numbers, 2(n-1)/n dim of them sent.

The averaged gradient, plus lambda x with `--weight-decay`, may drive another local rule, the same on every worker:
heavy-ball momentum, v <- beta v + g, x <- x - gamma v (Polyak 1964), or Adam (Kingma and Ba, ICLR 2015,
arXiv:1412.6980, Algorithm 1).
"""

from dataclasses import dataclass
from typing import Literal

from mpi4py import MPI

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main
from outpace.comm import schedules
from outpace.comm.arrays import copy, twin
from outpace.comm.batches import Batches, Sampling
from outpace.comm.schedules import step_sizes
from outpace.comm.spec import Decay, NonNegativeFloat, PositiveFloat, PositiveInt, Seed


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat | None = None  # gamma; by default 0.2, for adam 0.05
    schedule: str = "constant"  # SPEC of gamma over the steps: constant, sqrt, step:at=30+60, cosine
    batch_size: PositiveInt = 16  # samples per gradient of one worker
    sampling: Sampling = "replacement"  # how batches are drawn: with replacement, or shuffled passes
    rule: Literal["sgd", "momentum", "adam"] = "sgd"  # what is done with the averaged gradient
    beta1: Decay = 0.9  # decay of the momentum, or of Adam's first moment
    beta2: Decay = 0.999  # decay of Adam's second moment
    weight_decay: NonNegativeFloat = 0.0  # lambda, coupled: the gradient of lambda/2 |x|^2 joins the averaged one
    dtype: Literal["float32", "float64"] = "float32"  # of model, gradients and messages
    seed: Seed = 0  # of data order, batches and delays

    @property
    def title(self):
        return {"sgd": "AllReduce-SGD", "momentum": "Momentum SGD", "adam": "Adam"}[self.rule]

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
    penalty = problem.xp.empty_like(x) if cfg.weight_decay else None
    g_wire = twin(g, comm)
    step_size = cfg.derive(problem)["step_size"]
    gamma = step_sizes(cfg.schedule, step_size, cfg.steps_per_epoch(problem.n_total, comm.size), budget.total)
    update, moments = RULES[cfg.rule](cfg, gamma, x, problem.xp)
    budget.keep(x=x, **batches.memory, **moments)
    for k in budget:
        batch = batches.draw(cfg.batch_size)
        problem.gradient(x, batch, g)
        copy(g, g_wire)
        with trace.phase("allreduce", nbytes=g.nbytes):
            comm.Allreduce(MPI.IN_PLACE, g_wire)
        copy(g_wire, g)
        g /= comm.size
        if cfg.weight_decay:
            problem.xp.multiply(x, cfg.weight_decay, out=penalty)
            g += penalty
        trace.snapshot(x)
        update(x, g, k)
        trace.record()
    return x


# Each rule returns update(x, g, k), which writes x and may use g as scratch, so that no step allocates a vector, and
# its moments by name.


def sgd(cfg, gamma, x, xp):
    def update(x, g, k):
        g *= gamma(k)
        x -= g

    return update, {}


def momentum(cfg, gamma, x, xp):
    v = xp.zeros_like(x)

    def update(x, g, k):
        v[:] *= cfg.beta1
        v[:] += g
        xp.multiply(v, gamma(k), out=g)
        x -= g

    return update, {"v": v}


def adam(cfg, gamma, x, xp):
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
        g *= gamma(k) / (1 - cfg.beta1 ** (k + 1))  # m-hat
        x -= g

    return update, {"m": m, "v": v}


RULES = {"sgd": sgd, "momentum": momentum, "adam": adam}
STEP_SIZES = {"sgd": 0.2, "momentum": 0.2, "adam": 0.05}  # by default

if __name__ == "__main__":
    main(run, Config)
