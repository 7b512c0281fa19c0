"""A-PSGD: asynchronous parallel SGD with a parameter server (Lian et al., NeurIPS 2015, arXiv:1506.08272).

    worker i   g <- grad F_i(x_hat; xi), x_hat = x_{k-tau} as last pulled;  push g
    server     x_{k+1} = x_k - (gamma / n) g  as soon as g arrives;  its answer is the next x_hat

No worker waits for another one. tau, the number of gradients applied between the pull and the use, has the mean n - 1
whatever the speeds, since every worker always has one gradient under way. k counts the gradients of all workers.

A worker has one gradient under way and waits for its answer, so at most one message of each waits at a server, however
slow its link is. Behind a slow link workers are slow, all of them where it is the server's; nothing piles up, and a run
ends when these are answered.

The last `servers` ranks hold the model in slices, each with one buffer per worker beside its own. Cost per gradient:
the worker sends one gradient and gets one model, whose tag says whether the budget has another gradient for it. The
busiest rank is a server: in the time in which every worker computes one gradient, n / servers gradients come in and as
many models go out, which grows with n.

Deviations from the paper:
1. A gradient is applied with gamma / n, so that a --step-size means the same in all programs of this suite.
2. With several servers each slice is read and written by itself, so the model that a worker pulls may have slices
   of different ages; with one server it never does.
3. Every gradient is an update of its own; the paper's server gathers M of them for one, here M = 1.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main
from outpace.comm import schedules, vectors
from outpace.comm.arrays import copy, twin
from outpace.comm.batches import Batches, Sampling
from outpace.comm.layout import Layout
from outpace.comm.schedules import step_sizes
from outpace.comm.server import ask, exchanges, leave
from outpace.comm.spec import PositiveFloat, PositiveInt, Seed


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat = 0.2  # gamma; gamma / n is applied per gradient
    schedule: str = "constant"  # SPEC of gamma over the steps: constant, sqrt, step:at=30+60, cosine
    batch_size: PositiveInt = 16  # samples per gradient of one worker
    sampling: Sampling = "replacement"  # how batches are drawn: with replacement, or shuffled passes
    servers: PositiveInt = 1  # the last ranks, which hold the model and compute no gradients
    dtype: Literal["float32", "float64"] = "float32"  # of model, gradients and messages
    seed: Seed = 0  # of data order, batches and delays
    title = "A-PSGD"
    asynchronous = True
    granted = True

    def check(self, n):
        """Raise UserError for a schedule that there is not."""
        schedules.parse(self.schedule)


def run(comm, problem, cfg, budget, trace):
    """One worker or server; collective over comm. Returns a server's slice of the model, a worker's stale copy."""
    layout = Layout(comm.size - cfg.servers, cfg.servers)
    slices, wire = layout.held(problem.dim), comm.Dup()
    x_hat = problem.x0()
    gamma = step_sizes(cfg.schedule, cfg.step_size, problem.n_total / cfg.batch_size, budget.total)
    if comm.rank in slices:
        x = x_hat[slices[comm.rank]]
        serve(wire, x, layout.workers, gamma, budget, trace)
        wire.Free()
        return x

    g = problem.xp.empty_like(x_hat)
    x_wire, g_wire = twin(x_hat, comm), twin(g, comm)
    batches = Batches(cfg.sampling, problem.n_samples, cfg.seed, comm.rank)
    budget.keep(x_hat=x_hat, **batches.memory)
    for _ in budget:
        batch = batches.draw(cfg.batch_size)
        problem.gradient(x_hat, batch, g)
        copy(g, g_wire)
        with trace.phase("push", nbytes=g.nbytes):
            more = ask(wire, slices, g_wire, x_wire, budget.reason)
        copy(x_wire, x_hat)
        trace.record()
        if not more:
            break
    leave(wire, slices, budget.reason)
    wire.Free()
    return x_hat


def serve(comm, x, workers, gamma, budget, trace):
    """One server: apply every gradient to its slice x and answer with the result, until every worker has left."""
    k = np.zeros(1, dtype=np.int64)  # gradients applied
    read = np.zeros(workers, dtype=np.int64)  # the k at which each worker pulled its model
    descend_and_answer = vectors.descend_and_answer.like(x)
    budget.keep(x=x, k=k, read=read)
    with budget.attend():
        for worker, g, answer in exchanges(comm, workers, x, budget.more):
            with trace.phase("push", worker, x.nbytes, background=True):
                trace.snapshot(x)
                descend_and_answer(gamma(k[0]) / workers, x, g)  # what is left in g is the answer
                trace.applied(worker, staleness=k[0] - read[worker])
                answer()
            k += 1
            read[worker] = k[0]


if __name__ == "__main__":
    main(run, Config)
