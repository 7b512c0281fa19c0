"""AD-PSGD: asynchronous decentralized parallel SGD (Lian et al., ICML 2018, arXiv:1710.06952, Algorithm 1).

Two threads of each worker share its model x, and nothing waits for all workers:

    gradient   x_hat <- x;  g <- grad F_i(x_hat; xi);  x <- x - gamma g        (x may have moved meanwhile)
    averaging  x, x_j <- (x + x_j) / 2  with a random neighbour j, once per gradient of any worker

k counts the gradients of all workers. The graph is bipartite (section 4): active workers ask, passive ones answer. A
passive worker whose averaging is due calls a random active neighbour, which then asks it. Cost at the busiest rank
while every worker computes one gradient: on a regular graph two exchanges, one for its own gradient and one for a
neighbour's, a model each way; and 64 bytes for each batch of tickets of the budget.

Where messages are slower than gradients, no gradient waits, and a worker averages as often as it can: one averaging
that is due stands for all that are due at a worker, so none pile up. Models drift the further the fewer there are.

Why it cannot hang. No gradient loop waits for a neighbour. An active worker waits for the passive one that it asked,
and a passive one in an exchange for the active one that asked it, which has sent all that is waited for: so the
exchanges at a passive worker end one after the other. A passive worker says DONE after its last gradient, an active one
after its own last and its neighbours' DONE; until then it serves who calls. What is due for a worker that is done is
dropped: it would be line 5 of an iteration that there is not. A passive worker answers until its neighbours are DONE.
So whoever may be called or asked is there, nothing comes after DONE, and a run ends within an exchange of its last
gradient; at a passive worker that several ask at once, within one with each of these.

Deviations from the paper:
1. The gradient thread itself applies its gradient, under a lock that nobody holds across a message; the paper's
   hands it to the other thread. Both sides of an averaging therefore add an increment, x += r - s with s half the own
   model as sent and r half the peer's: gradients applied meanwhile are kept, and so is the sum of all models.
2. Hence a gradient may be taken at x - gamma g while an averaging that was sent x is under way: a model with the own
   gradient of an iteration, but not yet with its averaging. Algorithm 1 knows only models with both or with neither.
   To wait for the averaging would pile gradients up, to be applied all at once, where messages are slow.
3. One averaging per gradient, as in Algorithm 1; the paper's thread averages as fast as it can: `--averaging free`. It
   comes while the worker's next gradient begins to be computed, not when that is ready: line 5 runs beside line 4.
4. An exchange is the plain average where W has Metropolis's weights, else in proportion to W's (`exchange_weights`).
"""

from collections import deque
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main
from outpace.comm import bfloat16, schedules, threads, topology
from outpace.comm.batches import Batches, Sampling
from outpace.comm.bfloat16 import WireDtype, WireFormat
from outpace.comm.clock import wait
from outpace.comm.gossip import NOTHING, Exchange, SharedModel, exchange_weights, hear
from outpace.comm.schedules import step_sizes
from outpace.comm.spec import PositiveFloat, PositiveInt, Seed
from outpace.comm.streams import PEERS

DUE, ASK, COME, READY, MODEL, DONE = range(1, 7)  # message tags; DUE and DONE are words of gradient loops as well


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat = 0.2  # gamma
    schedule: str = "constant"  # SPEC of gamma over the gradients: constant, sqrt, step:at=30+60, cosine
    batch_size: PositiveInt = 16  # M, samples per gradient of one worker
    sampling: Sampling = "replacement"  # how batches are drawn: with replacement, or shuffled passes
    topology: str = "ring"  # SPEC of the graph, which must be bipartite
    averaging: Literal["gradient", "free"] = "gradient"  # one per gradient, or as fast as it can
    dtype: Literal["float32", "float64"] = "float32"  # of model, gradients and messages
    wire_dtype: WireDtype = "same"  # of models in messages: as they are, or halves of float32, rounded at random
    seed: Seed = 0  # of data order, batches, delays and rounding
    title = "AD-PSGD"
    asynchronous = True
    by_nccl = True
    younger = MappingProxyType({"wire_dtype": "same"})

    def check(self, n):
        """Raise UserError for a graph of n workers that is not bipartite, for a schedule that there is not, and for
        messages that are no halves."""
        schedules.parse(self.schedule)
        bfloat16.check(self.wire_dtype, self.dtype)
        topology.bipartition(topology.mixing_matrix(self.topology, n), 0, self.topology)


def run(comm, problem, cfg, budget, trace):
    """One worker; collective over comm. Returns its local model x, shape (dim,)."""
    W = topology.mixing_matrix(cfg.topology, comm.size)
    active, neighbours = topology.bipartition(W, comm.rank, cfg.topology)
    model, words, gossip = SharedModel(comm, problem.x0(), trace), threads.channel(comm), comm.Dup()
    form = WireFormat(cfg.wire_dtype, cfg.seed, comm.rank)
    exchange = Exchange(gossip, model, MODEL, exchange_weights(W, comm.rank), form)
    x_hat, g = model.x.copy(), model.x.copy()
    batches = Batches(cfg.sampling, problem.n_samples, cfg.seed, comm.rank)
    peers = np.random.default_rng([PEERS, cfg.seed, comm.rank])
    gamma = step_sizes(cfg.schedule, cfg.step_size, problem.n_total / cfg.batch_size, budget.total)
    budget.keep(x=model.x, peers=peers, **batches.memory, **form.memory)
    free = cfg.averaging == "free"
    if active:
        averaging = [threads.start(comm, ask, gossip, neighbours, exchange, words, peers, free, trace)]
    else:
        called = threads.event(comm)
        averaging = [
            threads.start(comm, answer, gossip, neighbours, exchange, called, trace),
            threads.start(comm, call, gossip, neighbours, words, called, peers, free),
        ]
    for k in budget:
        batch = batches.draw(cfg.batch_size)  # line 3
        read_s, seen = trace.now(), model.read(x_hat)
        problem.gradient(x_hat, batch, g)  # line 4, at the model as read
        meanwhile = model.descend(gamma(k), g) - seen  # line 6
        if active or not called.is_set():  # who has called has one due already
            words.put(DUE)  # line 5 of the next iteration
        trace.record(read_s, local_writes=meanwhile)
    words.put(DONE)
    for thread in averaging:
        thread.join()
    gossip.Free()
    return model.x


def ask(comm, neighbours, exchange, words, rng, free, trace):
    """Active worker: average with a random passive neighbour for its own gradients, and with those that call."""
    due, present = deque[int](), {comm.rank, *neighbours}  # for whose gradients, in turn; who is not yet done
    while present:
        if heard := hear(comm, words, patient=not due):
            source, word = heard
            if word == DONE:
                present.remove(source)
                due = deque(worker for worker in due if worker != source)  # line 5 of an iteration that there is not
            elif source not in due:
                due.append(source)
            continue
        worker = due.popleft()
        own = worker == comm.rank
        peer = neighbours[rng.integers(len(neighbours))] if own else worker
        with trace.phase("exchange", peer, exchange.nbytes, background=True):
            hail = [comm.Irecv(NOTHING, peer, READY), comm.Isend(NOTHING, peer, ASK if own else COME)]
            exchange.average_with(peer, hail)
        if free:
            due.append(worker)
    wait(comm, [comm.Isend(NOTHING, peer, DONE) for peer in neighbours])


def call(comm, neighbours, words, called, rng, free):
    """Passive worker: call a random active neighbour for its own gradients, unless it waits for one that it called."""
    for _ in iter(words.get, DONE):
        if len(neighbours) and not free and not called.is_set():
            called.set()
            wait(comm, [comm.Isend(NOTHING, neighbours[rng.integers(len(neighbours))], DUE)])
    wait(comm, [comm.Isend(NOTHING, peer, DONE) for peer in neighbours])


def answer(comm, neighbours, exchange, called, trace):
    """Passive worker: answer whoever asks, one after the other, until every active neighbour is done."""
    status, asking = MPI.Status(), len(neighbours)
    while asking:
        wait(comm, [comm.Irecv(NOTHING, MPI.ANY_SOURCE, MPI.ANY_TAG)], [status])
        if status.tag == DONE:
            asking -= 1
            continue
        if status.tag == COME:
            called.clear()
        with trace.phase("exchange", status.source, exchange.nbytes, background=True):
            exchange.average_with(status.source, [comm.Isend(NOTHING, status.source, READY)])


if __name__ == "__main__":
    main(run, Config)
