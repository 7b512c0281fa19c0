"""AD-PSGD: asynchronous decentralized parallel SGD (Lian et al., ICML 2018, arXiv:1710.06952, Algorithm 1).

Two threads of each worker share its model x, and nothing waits for all workers:

    gradient   x_hat <- x;  g <- grad F_i(x_hat; xi);  x <- x - gamma g        (x may have moved meanwhile)
    averaging  x, x_peer <- (x + x_peer) / 2  with a random neighbour

The graph is bipartite: active workers ask, passive ones answer, so no cycle of workers can wait for itself
(section 4). k counts the gradients of all workers. Cost per gradient at the busiest rank: one model sent per
exchange, whatever n is, and 8 bytes for a ticket of the budget.

Deviations from the paper:
1. The gradient thread itself applies its gradient, under a lock, where the paper's hands it to the other thread.
   Hence the active side's increment form: x += (r - s)/2 keeps a gradient applied while s was under way, and the
   sum of all models, where x <- (x + r)/2 would not.
2. One averaging per gradient of an active worker; the paper's averaging thread runs as fast as it can.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.program import main
from outpace.comm import threads, topology
from outpace.comm.arrays import copy, twin
from outpace.comm.clock import wait
from outpace.comm.spec import PositiveFloat, PositiveInt, Seed
from outpace.comm.streams import BATCHES, PEERS

MODEL, DONE = 1, 2  # message tags


@dataclass(frozen=True)
class Config:
    step_size: PositiveFloat = 0.2  # gamma
    batch_size: PositiveInt = 16  # M, samples per gradient of one worker
    topology: str = "ring"  # SPEC of the graph, which must be bipartite
    dtype: Literal["float32", "float64"] = "float32"  # of model, gradients and messages
    seed: Seed = 0  # of data order, batches and delays
    asynchronous: ClassVar[bool] = True  # the workers share the budget


class Model:
    """The local model x, shape (dim,), that the two threads of a worker share under a lock."""

    def __init__(self, comm, problem):
        self.x = problem.x0()
        self.lock = threads.lock(comm)
        self.averagings = 0


def run(comm, problem, cfg, budget, trace):
    """One worker; collective over comm. Returns its local model x, shape (dim,)."""
    W = topology.mixing_matrix(cfg.topology, comm.size)
    active, neighbours = topology.bipartition(W, comm.rank, cfg.topology)
    model, due, gossip = Model(comm, problem), threads.channel(comm), comm.Dup()
    x = model.x
    x_hat, g = problem.xp.empty_like(x), problem.xp.empty_like(x)
    averaging = threads.start(comm, ask if active else answer, gossip, neighbours, model, due, cfg.seed, trace)

    rng = np.random.default_rng([BATCHES, cfg.seed, comm.rank])
    for k in budget:
        batch = rng.integers(problem.n_samples, size=cfg.batch_size)  # line 3
        with model.lock:
            read_s, averagings = trace.now(), model.averagings
            copy(x, x_hat)
        problem.gradient(x_hat, batch, g)  # line 4, at the model as read
        g *= cfg.step_size
        with model.lock:
            trace.snapshot(x)
            x -= g  # line 6
            averagings = model.averagings - averagings
        due.put(k)
        trace.record(read_s, local_writes=averagings)
    due.put(None)
    averaging.join()
    gossip.Free()
    return x


def ask(comm, neighbours, model, due, seed, trace):
    """Active worker: average with one random passive neighbour per gradient (line 5)."""
    rng = np.random.default_rng([PEERS, seed, comm.rank])
    s, r = model.x.copy(), model.x.copy()
    s_wire, r_wire = twin(s, comm), twin(r, comm)
    for _ in iter(due.get, None):
        peer = rng.choice(neighbours)
        with trace.phase("exchange", peer, s.nbytes, background=True):
            with model.lock:
                copy(model.x, s)
            copy(s, s_wire)
            wait(comm, [comm.Irecv(r_wire, peer, MODEL), comm.Isend(s_wire, peer, MODEL)])
            copy(r_wire, r)
            r -= s
            r *= 0.5
            with model.lock:
                trace.snapshot(model.x)
                model.x += r
                model.averagings += 1
    wait(comm, [comm.Isend([None, MPI.BYTE], peer, DONE) for peer in neighbours])


def answer(comm, neighbours, model, due, seed, trace):
    """Passive worker: answer whoever asks, until every active neighbour is done."""
    s, r = model.x.copy(), model.x.copy()
    s_wire, r_wire = twin(s, comm), twin(r, comm)
    status, asking = MPI.Status(), len(neighbours)
    while asking:
        wait(comm, [comm.Irecv(s_wire, MPI.ANY_SOURCE, MPI.ANY_TAG)], [status])
        if status.tag == DONE:
            asking -= 1
            continue
        with trace.phase("exchange", status.source, r.nbytes, background=True):
            copy(s_wire, s)
            with model.lock:
                copy(model.x, r)
                trace.snapshot(model.x)
                model.x += s
                model.x *= 0.5
                model.averagings += 1
            copy(r, r_wire)
            wait(comm, [comm.Isend(r_wire, status.source, MODEL)])


if __name__ == "__main__":
    main(run, Config)
