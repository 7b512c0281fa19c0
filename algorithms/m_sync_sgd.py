"""m-synchronous SGD: the first m gradients make a round (Begunov and Tyurin, 2026, arXiv:2602.03802, Algorithm 3).

    x_{k+1} = x_k - gamma (1/m) sum_{i in S_k} grad F_i(x_k; xi_{k,i}),   S_k the m workers whose gradients come first

Chen et al., 2016, arXiv:1604.00981, have the same as synchronous SGD with n - m backup workers. A round waits for the
m-th fastest of the workers, and no longer. A worker whose gradient is in S_k waits for x_{k+1}. One that is late is not
interrupted: when its gradient is done and sent, it takes the newest model at once and takes part in the round under
way. With m = n it is AllReduce-SGD, by a server.

What becomes of a late gradient says `--late`. `discard`: it is dropped. `apply`: it is one of the m of the round in
which it comes, which is then stale; that is the K-async SGD of Dutta et al., AISTATS 2018, arXiv:1803.01113, K = m.

The last rank serves. k counts rounds, each of m gradients; the late ones that are dropped are told apart in the trace
and count for nothing. The server ends all loops between two rounds, by its answers; the gradients that are under way
then are dropped, n - m at most. Cost per gradient, dropped or not: the worker sends one gradient and gets one model.
The busiest rank is the server, with at most n of each per round.

Deviations from the paper:
1. Gradients are not interrupted when their round ends, so a late worker may miss several rounds.
2. All workers have a share of the data. Where the shares differ, the model is drawn to those of the fast workers.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main
from outpace.comm import schedules, vectors
from outpace.comm.arrays import copy, twin
from outpace.comm.batches import Batches, Sampling
from outpace.comm.budget import Stop
from outpace.comm.clock import wait
from outpace.comm.errors import UserError
from outpace.comm.schedules import step_sizes
from outpace.comm.server import ANSWER, LEAVE, MESSAGE, Mailbox
from outpace.comm.spec import PositiveFloat, PositiveInt, Seed


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat = 0.2  # gamma
    schedule: str = "constant"  # SPEC of gamma over the rounds: constant, sqrt, step:at=30+60, cosine
    m: PositiveInt | None = None  # gradients of a round; by default those of all workers but one
    late: Literal["discard", "apply"] = "discard"  # what becomes of gradients of earlier rounds
    batch_size: PositiveInt = 16  # samples per gradient of one worker
    sampling: Sampling = "replacement"  # how batches are drawn: with replacement, or shuffled passes
    dtype: Literal["float32", "float64"] = "float32"  # of model, gradients and messages
    seed: Seed = 0  # of data order, batches and delays
    title = "m-sync SGD"
    asynchronous = True
    servers = 1
    rounds = True

    def check(self, n):
        """Raise UserError for more gradients than workers, and for a schedule that there is not."""
        schedules.parse(self.schedule)
        if self.of_a_round(n) > n:
            raise UserError(f"--m is {self.m}; with {n} worker(s) it must be at most {n}")

    def of_a_round(self, n):
        """m, of n workers."""
        return self.m or max(1, n - 1)

    def steps_per_epoch(self, n_total, n):
        """Rounds that together apply n_total samples."""
        return n_total / (self.of_a_round(n) * self.batch_size)


def run(comm, problem, cfg, budget, trace):
    """One worker, or the server; collective over comm. Returns the model, a worker's as it pulled it last."""
    n, wire = comm.size - 1, comm.Dup()
    x = problem.x0()
    if comm.rank == n:
        gamma = step_sizes(cfg.schedule, cfg.step_size, cfg.steps_per_epoch(problem.n_total, n), budget.total)
        serve(wire, x, cfg, gamma, budget, trace)
        wire.Free()
        return x

    g = problem.xp.empty_like(x)
    x_wire, g_wire = twin(x, comm), twin(g, comm)
    batches, statuses = Batches(cfg.sampling, problem.n_samples, cfg.seed, comm.rank), [MPI.Status(), MPI.Status()]
    budget.keep(x=x, **batches.memory)
    for _ in budget:
        batch = batches.draw(cfg.batch_size)
        problem.gradient(x, batch, g)
        copy(g, g_wire)
        with trace.phase("push", nbytes=g.nbytes):
            # The tag tells the server of a reason to end, a signal perhaps or a gradient that is not finite.
            sent = wire.Isend(g_wire, n, MESSAGE + budget.reason)
            wait(comm, [sent, wire.Irecv(x_wire, n)], statuses)
        copy(x_wire, x)
        trace.record()
        if statuses[1].tag == LEAVE:
            break
    wire.Free()
    return x


def serve(comm, x, cfg, gamma, budget, trace):
    """The server: close a round with its m-th gradient; the last answer to each worker sends it away."""
    n, m = comm.size - 1, cfg.of_a_round(comm.size - 1)
    mailbox, total, descend = Mailbox(comm, n, x), np.empty_like(x), vectors.descend.like(x)
    messages = iter(mailbox)
    waiting: list[int] = []  # the workers whose gradients are in the round
    budget.keep(x=x)
    pulled = np.full(n, budget.count)  # the round whose model each worker has

    def answer(worker, k, tag):
        with trace.phase("push", worker, x.nbytes, background=True):
            mailbox.buffers[worker] = x
            mailbox.answer(worker, tag)
        pulled[worker] = k

    for k in budget:
        while waiting:
            answer(waiting.pop(0), k, ANSWER)
        total[:] = 0
        while len(waiting) < m:
            worker, tag = next(messages)
            budget.stop(Stop(tag - MESSAGE))
            if pulled[worker] < k and cfg.late == "discard":
                trace.dropped(worker, staleness=m * (k - pulled[worker]))
                answer(worker, k, ANSWER)
            else:
                total += mailbox.buffers[worker]
                waiting.append(worker)
        with trace.phase("push", background=True):
            trace.snapshot(x)
            descend(gamma(k) / m, 1, total, x)
        for worker in waiting:
            trace.applied(worker, staleness=m * (k - pulled[worker]))
    for worker in waiting:
        answer(worker, budget.count, LEAVE)
    for worker, tag in messages:
        budget.stop(Stop(tag - MESSAGE))
        trace.dropped(worker, staleness=m * (budget.count - pulled[worker]))
        answer(worker, budget.count, LEAVE)


if __name__ == "__main__":
    main(run, Config)
