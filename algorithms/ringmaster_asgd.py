"""Ringmaster ASGD: a parameter server that drops gradients that are too old (Maranjyan, Tyurin, Richtarik, ICML 2025,
arXiv:2501.16168, Algorithm 4); and Ringleader ASGD, which weighs workers alike (Maranjyan, Richtarik, 2025,
arXiv:2509.22860).

    worker i             g <- grad F_i(x_{k - delta}; xi) at the model as last pulled;  push g, pull the newest x
    server, ringmaster   delta < R:  x_{k+1} = x_k - (gamma / n) g;  else g is dropped, and k stays
    server, ringleader   x_{k+1} = x_k - (gamma / n) (1/n) sum_i G_i / b_i,  G_i the sum of b_i gradients of worker i

No worker waits for another one. delta is the number of updates between the read of the model and the use, R is
`--threshold`; with an R that no delta reaches it is A-PSGD.

A round of Ringleader has two phases. In the first the server gathers gradients into the table G until there is one of
every worker, and the model stays; the last one makes the first update. In the second each of the others makes an update
with its next gradient, which joins the table before. A worker that has made its update gets the newest model at once,
and its gradients go into the table of the next round. So there are n updates in a round, in which all workers have the
weight 1/n however fast they are, and the model is drawn to the minimum of (1/n) sum f_i. A round takes about as long as
a gradient of the slowest worker; nobody is idle meanwhile, and the others' further gradients lessen the noise.

The last `servers` ranks hold the model in slices, each with one buffer per worker beside its own, and the two tables of
Ringleader, n slices each. Cost per gradient, dropped or not: the worker sends one gradient and gets one model, whose
tag says whether the budget has another gradient for it. The busiest rank is a server: in the time in which every worker
computes one gradient, n / servers gradients come in and as many models go out.

The budget is of gradients that are computed. At the end those in Ringleader's tables that no update has used are
dropped.

Deviations from the papers:
1. An update is made with gamma / n, so that a --step-size means the same in all programs of this suite.
2. gamma is that of the gradients that have come, the dropped ones too, so that a schedule ends with the run.
3. With several servers each slice is read and written by itself, and by the delays that its own server sees.
4. Gradients that have become too old are not interrupted, as Ringmaster's Algorithm 5 would do.
5. Of Ringleader's second phase the paper's order is taken to be: the gradient joins the table, then comes the update.
6. Ringleader begins a new round when a run goes on from a checkpoint.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main
from outpace.comm import schedules, vectors
from outpace.comm.arrays import copy, twin
from outpace.comm.batches import Batches, Sampling
from outpace.comm.errors import UserError
from outpace.comm.layout import Layout
from outpace.comm.schedules import step_sizes
from outpace.comm.server import ask, exchanges, leave
from outpace.comm.spec import PositiveFloat, PositiveInt, Seed


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat = 0.2  # gamma; gamma / n is applied per update
    schedule: str = "constant"  # SPEC of gamma over the gradients: constant, sqrt, step:at=30+60, cosine
    variant: Literal["ringmaster", "ringleader"] = "ringmaster"  # drop old gradients, or weigh workers alike
    threshold: PositiveInt | None = None  # R of ringmaster, in updates; by default twice the workers
    batch_size: PositiveInt = 16  # samples per gradient of one worker
    sampling: Sampling = "replacement"  # how batches are drawn: with replacement, or shuffled passes
    servers: PositiveInt = 1  # the last ranks, which hold the model and compute no gradients
    dtype: Literal["float32", "float64"] = "float32"  # of model, gradients and messages
    seed: Seed = 0  # of data order, batches and delays
    asynchronous = True
    granted = True

    @property
    def title(self):
        return {"ringmaster": "Ringmaster ASGD", "ringleader": "Ringleader ASGD"}[self.variant]

    @property
    def averages_workers(self):
        return self.variant == "ringleader"

    def check(self, n):
        """Raise UserError for a threshold where none is used, and for a schedule that there is not."""
        schedules.parse(self.schedule)
        if self.variant == "ringleader" and self.threshold is not None:
            raise UserError("--threshold is of --variant ringmaster; ringleader drops no gradient for its age")


def run(comm, problem, cfg, budget, trace):
    """One worker or server; collective over comm. Returns a server's slice of the model, a worker's stale copy."""
    layout = Layout(comm.size - cfg.servers, cfg.servers)
    slices, wire = layout.held(problem.dim), comm.Dup()
    x_hat = problem.x0()
    gamma = step_sizes(cfg.schedule, cfg.step_size, problem.n_total / cfg.batch_size, budget.total)
    if comm.rank in slices:
        x = x_hat[slices[comm.rank]]
        serve(wire, x, layout.workers, cfg, gamma, budget, trace)
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


def serve(comm, x, workers, cfg, gamma, budget, trace):
    """One server: let its variant make what it does of every gradient, and answer with the newest slice x."""
    k, came = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)  # updates; gradients
    read = np.zeros(workers, dtype=np.int64)  # the k at which each worker pulled its model
    budget.keep(x=x, k=k, came=came, read=read)
    rule, descend = VARIANTS[cfg.variant](cfg, workers, x), vectors.descend.like(x)
    with budget.attend():
        for worker, g, answer in exchanges(comm, workers, x, budget.more):
            with trace.phase("push", worker, x.nbytes, background=True):
                used, dropped = rule.take(worker, read[worker], g, k[0])
                for each, at in dropped:
                    trace.dropped(each, staleness=k[0] - at)
                if used:
                    trace.snapshot(x)
                    descend(gamma(came[0]) / workers, 1, g, x)
                    for each, at in used:
                        trace.applied(each, staleness=k[0] - at)
                    k += 1
                came += 1
                read[worker] = k[0]
                g[:] = x  # the answer
                answer()
    for each, at in rule.left():
        trace.dropped(each, staleness=k[0] - at)


class Ringmaster:
    """A gradient is used at once, or dropped where its delay has reached R."""

    def __init__(self, cfg, n, x):
        self.threshold = cfg.threshold or 2 * n

    def take(self, worker, read, g, k):
        """Of a gradient that comes when there were k updates: the gradients (worker, k when its model was read) that
        the next update uses for the first time, whose direction is then in g; and those that are dropped."""
        mine = [(worker, read)]
        return (mine, []) if k - read < self.threshold else ([], mine)

    def left(self):
        """The gradients that no update has used."""
        return []


class Ringleader:
    """Every gradient joins the table of this round, or of the next one, and one of each worker makes an update."""

    def __init__(self, cfg, n, x):
        self.now, self.next = Table(n, x), Table(n, x)
        self.owed = np.zeros(n, dtype=bool)  # the workers that are to make an update yet; none in the first phase

    def take(self, worker, read, g, k):
        """As Ringmaster's."""
        second_phase = self.owed.any()
        table = self.now if self.owed[worker] or not second_phase else self.next
        table.add(worker, read, g)
        if not second_phase and self.now.counts.all():
            self.owed[:] = True
        if not self.owed[worker]:
            return [], []
        used, self.now.unused = self.now.unused, []
        self.now.mean(g)
        self.owed[worker] = False
        if not self.owed.any():
            self.now.clear()
            self.now, self.next = self.next, self.now
        return used, []

    def left(self):
        return self.now.unused + self.next.unused


class Table:
    """What a round has of every worker: the sum of its gradients, their number, and those that no update has used."""

    def __init__(self, n, x):
        self.sums, self.counts, self.unused = np.zeros((n, *x.shape), x.dtype), np.zeros(n, dtype=np.int64), []

    def add(self, worker, read, g):
        self.sums[worker] += g
        self.counts[worker] += 1
        self.unused.append((worker, read))

    def mean(self, out):
        """The mean over the workers of the mean of each one's gradients."""
        np.dot((1 / (len(self.counts) * self.counts)).astype(out.dtype), self.sums, out=out)

    def clear(self):
        self.sums[:] = 0
        self.counts[:] = 0


VARIANTS: dict[str, Any] = {"ringmaster": Ringmaster, "ringleader": Ringleader}

if __name__ == "__main__":
    main(run, Config)
