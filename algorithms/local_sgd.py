"""Local SGD (Stich, ICLR 2019, arXiv:1805.09767, Algorithm 1), and DiLoCo (Douillard et al., arXiv:2311.08105,
Algorithm 1): workers train alone, and their models are averaged every H steps.

    every step       x_i <- the local rule's step with grad F_i(x_i; xi_i)
    every H steps    D_i = x~ - x_i,   D = (1/n) sum_i D_i                     x~: the model that the round began with
                     x~ <- x~ - D                                 --outer none: x~ is the mean of the x_i, Local SGD
                     v <- mu v + D,   x~ <- x~ - eta (D + mu v)   --outer nesterov: DiLoCo
                     x_i <- x~

The local rule is one of `comm/local_rules.py`. Its moments stay with the worker, from round to round; models alone are
averaged. With H = 1, `--outer none` and SGD the iterates are those of AllReduce-SGD.

With `--overlap` D is sent while the next H steps are made, and comes one round late. Until then a worker makes do with
its own part of it, the eager update of Kale et al. (arXiv:2502.12996): in round t

    D = (1/n) (D_i of round t + sum_{j != i} D_j of round t-1)

x~ is then each worker's own; the others' part of it is late.

A step k is a local step, and what is evaluated is the mean of the x_i. Every H steps all wait for the slowest worker,
whose delays of H steps add up before they are waited for; with `--overlap` they wait for what the slowest had done a
round before. Cost per H steps at the busiest rank: one Allreduce of dim numbers, 2(n-1)/n dim of them sent.

Deviations from the papers:
1. Workers hold the data that `--split` deals them, where Stich's draw from all of it. All of them take part in all
   rounds, and every worker has the same H and counts alike, whatever it holds.
2. The outer rule is Nesterov's momentum in the form of PyTorch's SGD, v <- mu v + D, as the usual implementations of
   DiLoCo have it; the paper names Nesterov's momentum and gives no formula. Its outer step size eta does not follow
   `--schedule`, which is that of the local steps.
3. The eager update sends all of D at once, in full precision. In round 0 there is nothing of the others: D is D_i / n.
4. The last D of a run with `--overlap` is not applied.
"""

from dataclasses import dataclass
from typing import Literal

from mpi4py import MPI

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main
from outpace.comm import schedules
from outpace.comm.arrays import Wired
from outpace.comm.batches import Batches, Sampling
from outpace.comm.local_rules import STEP_SIZES, Rule, local_rule
from outpace.comm.schedules import step_sizes
from outpace.comm.spec import Decay, NonNegativeFloat, PositiveFloat, PositiveInt, Seed


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat | None = None  # gamma; by default 0.2, for adam and adamw 0.05; of DiLoCo see derive
    schedule: str = "constant"  # SPEC of gamma over the steps: constant, sqrt, step:at=30+60, cosine
    period: PositiveInt = 8  # H, local steps from one average to the next
    rule: Rule = "sgd"  # of the local steps
    beta1: Decay = 0.9  # decay of the momentum, or of Adam's first moment
    beta2: Decay = 0.999  # decay of Adam's second moment
    weight_decay: NonNegativeFloat = 0.0  # lambda: lambda x joins the gradient; of adamw, decoupled
    outer: Literal["none", "nesterov"] = "none"  # what is done with the average: Local SGD, or DiLoCo
    outer_step_size: PositiveFloat = 0.7  # eta
    outer_momentum: Decay | None = None  # mu; by default 0.9, with overlap 0.3
    overlap: bool = False  # send the average while the next round's steps are made
    batch_size: PositiveInt = 16  # samples per gradient of one worker
    sampling: Sampling = "replacement"  # how batches are drawn: with replacement, or shuffled passes
    dtype: Literal["float32", "float64"] = "float32"  # of model, gradients and messages
    seed: Seed = 0  # of data order, batches and delays

    by_nccl = True

    @property
    def title(self):
        name = "DiLoCo" if self.outer == "nesterov" else "Local SGD"
        return f"{name}, overlapped" if self.overlap else name

    def check(self, n):
        """Raise UserError for a schedule that there is not."""
        schedules.parse(self.schedule)

    def reach(self, n, diameter):
        """A round; with an average that is a round late, two."""
        return 2 * self.period if self.overlap else self.period

    def derive(self, problem):
        """gamma and mu, for the trace. In the end an outer rule multiplies steps by eta / (1 - mu): the default gamma
        makes up for that."""
        mu = self.outer_momentum
        if mu is None:
            mu = 0.3 if self.overlap else 0.9
        gamma = self.step_size
        if gamma is None:
            gamma = STEP_SIZES[self.rule] * ((1 - mu) / self.outer_step_size if self.outer == "nesterov" else 1)
        return {"step_size": gamma, "outer_momentum": mu}


def run(comm, problem, cfg, budget, trace):
    """One worker; collective over comm. Returns its local model x, shape (dim,)."""
    xp, n = problem.xp, comm.size
    x = problem.x0()
    start, v = x.copy(), xp.zeros_like(x)  # x~, and its momentum
    g, d, own = xp.empty_like(x), xp.empty_like(x), xp.zeros_like(x)
    total = Wired(x.shape, x.dtype, xp, comm, meanwhile=cfg.overlap)  # sum_j D_j
    batches = Batches(cfg.sampling, problem.n_samples, cfg.seed, comm.rank)
    step_size, mu = cfg.derive(problem).values()
    gamma = step_sizes(cfg.schedule, step_size, cfg.steps_per_epoch(problem.n_total, n), budget.total)
    update, moments = local_rule(cfg, gamma, x, xp)
    budget.keep(x=x, start=start, outer_v=v, own=own, total=total.array, **batches.memory, **moments)
    total.to_wire()  # where the run goes on: what came while the checkpoint was waited for
    request = MPI.REQUEST_NULL
    for k in budget:
        batch = batches.draw(cfg.batch_size)
        problem.gradient(x, batch, g)
        trace.snapshot(x)
        update(x, g, k)
        request.Test()  # what is under way needs a turn of MPI's now and then
        if (k + 1) % cfg.period == 0:
            xp.subtract(start, x, out=g)  # D_i
            if cfg.overlap:
                xp.subtract(g, own, out=d)  # own: D_i of the last round
                own[:] = g
                with trace.phase("allreduce", nbytes=x.nbytes):  # waits for the last one, and sends this one
                    request.Wait()
                    d += total.from_wire()
                    total.array[:] = own
                    request = comm.Iallreduce(MPI.IN_PLACE, total.to_wire())
            else:
                total.array[:] = g
                with trace.phase("allreduce", nbytes=x.nbytes):
                    comm.Allreduce(MPI.IN_PLACE, total.to_wire())
                d[:] = total.from_wire()
            d /= n
            if cfg.outer == "nesterov":
                v *= mu
                v += d
                xp.multiply(v, mu, out=g)
                d += g
                d *= cfg.outer_step_size
            start -= d
            x[:] = start
        trace.record()
    request.Wait()
    total.from_wire()
    return x


if __name__ == "__main__":
    main(run, Config)
