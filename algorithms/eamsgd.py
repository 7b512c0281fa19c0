"""EAMSGD: asynchronous elastic averaging SGD with momentum (Zhang, Choromanska, LeCun, NeurIPS 2015, arXiv:1412.6651).

Every worker trains a model x_i of its own; a server holds the centre x~, to which an elastic force ties them:

    every tau steps   e = alpha (x_i - x~);  x_i <- x_i - e;  x~ <- x~ + e,       alpha = beta / n
    every step        v_i <- delta v_i - gamma grad F_i(x_i + delta v_i; xi);  x_i <- x_i + v_i

No worker waits for another one. k counts the gradients of all workers. The result, and what is evaluated, is x~.

A worker has one exchange under way and waits for its answer, so at most one message of each waits at a server, however
slow its link is. Behind a slow link workers are slow, all of them where it is the server's; nothing piles up, and a run
ends when these are answered.

The last `servers` ranks hold the centre in slices, each with one buffer per worker beside its own. Cost per gradient:
1 / tau models to the worker and as many from it, and at most 64 bytes for tickets of the budget. The busiest rank is
a server: in the time in which every worker computes one gradient, n / (tau servers) models come in and as many go
out, which grows with n.

Deviations from the paper:
1. The worker sends x_i, and the server answers with x~ and at once adds its own e, so both sides of an exchange use
   the same two models however many workers exchange meanwhile, and x~ + sum x_i changes by gradients only.
2. The worker waits for the answer, and its gradient is taken after the elastic move.
3. With several servers the slices of x~ are exchanged each by itself.
4. delta is 0.9 by default, which is our choice.

With momentum delta a gradient moves the model by gamma / (1 - delta) in the end, ten times gamma by default; hence
the default step size is a tenth of the other programs'.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main
from outpace.comm import schedules, vectors
from outpace.comm.arrays import copy, twin
from outpace.comm.batches import Batches, Sampling
from outpace.comm.layout import Layout
from outpace.comm.schedules import step_sizes
from outpace.comm.server import ask, exchanges, leave
from outpace.comm.spec import Decay, PositiveFloat, PositiveInt, Range, Seed


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat = 0.02  # gamma
    schedule: str = "constant"  # SPEC of gamma over the steps: constant, sqrt, step:at=30+60, cosine
    momentum: Decay = 0.9  # delta
    elasticity: Annotated[float, Range(above=0, most=1)] = 0.9  # beta; alpha = beta / n
    period: PositiveInt = 10  # tau, own steps between two exchanges of a worker
    batch_size: PositiveInt = 16  # samples per gradient of one worker
    sampling: Sampling = "replacement"  # how batches are drawn: with replacement, or shuffled passes
    servers: PositiveInt = 1  # the last ranks, which hold the centre and compute no gradients
    dtype: Literal["float32", "float64"] = "float32"  # of models, gradients and messages
    seed: Seed = 0  # of data order, batches and delays
    title = "EAMSGD"
    asynchronous = True

    def check(self, n):
        """Raise UserError for a schedule that there is not."""
        schedules.parse(self.schedule)


def run(comm, problem, cfg, budget, trace):
    """One worker or server; collective over comm. Returns a worker's model, a server's slice of the centre."""
    layout = Layout(comm.size - cfg.servers, cfg.servers)
    slices, wire = layout.held(problem.dim), comm.Dup()
    alpha = cfg.elasticity / layout.workers
    x, xp = problem.x0(), problem.xp
    if comm.rank in slices:
        centre = x[slices[comm.rank]]
        serve(wire, centre, layout.workers, alpha, budget, trace)
        wire.Free()
        return centre

    v, ahead, g, centre = xp.zeros_like(x), xp.empty_like(x), xp.empty_like(x), xp.empty_like(x)
    x_wire, centre_wire = twin(x, comm), twin(centre, comm)
    pull, look_ahead, fall = (each.like(x) for each in (vectors.pull, vectors.look_ahead, vectors.fall))
    batches = Batches(cfg.sampling, problem.n_samples, cfg.seed, comm.rank)
    gamma = step_sizes(cfg.schedule, cfg.step_size, problem.n_total / cfg.batch_size, budget.total)
    budget.keep(x=x, v=v, **batches.memory)
    for k in budget:
        batch = batches.draw(cfg.batch_size)
        if trace.steps % cfg.period == 0:  # of its own steps
            copy(x, x_wire)
            with trace.phase("exchange", nbytes=x.nbytes):
                ask(wire, slices, x_wire, centre_wire)
            copy(centre_wire, centre)
            pull(alpha, centre, x)
        read_s = trace.now()
        look_ahead(cfg.momentum, x, v, ahead)  # x + delta v
        problem.gradient(ahead, batch, g)
        fall(gamma(k), g, v, x)
        trace.record(read_s)
    leave(wire, slices)
    wire.Free()
    return x


def serve(comm, centre, workers, alpha, budget, trace):
    """One server: answer each model with the centre and move the centre towards it, until every worker has left."""
    pull_and_answer = vectors.pull_and_answer.like(centre)
    budget.keep(centre=centre)
    with budget.attend():
        for worker, x, answer in exchanges(comm, workers, centre):
            with trace.phase("exchange", worker, centre.nbytes, background=True):
                trace.snapshot(centre)
                pull_and_answer(alpha, x, centre)  # what is left in x is the answer
                answer()


if __name__ == "__main__":
    main(run, Config)
