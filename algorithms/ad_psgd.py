"""AD-PSGD: asynchronous decentralized parallel SGD (Lian et al., ICML 2018, arXiv:1710.06952, Algorithm 1).

Two threads of each worker share its model x, and nothing waits for all workers:

    gradient   x_hat <- x;  g <- grad F_i(x_hat; xi);  x <- x - gamma g        (x may have moved meanwhile)
    averaging  x, x_peer <- (x + x_peer) / 2  with a random neighbour

The graph is bipartite: active workers ask, passive ones answer, so no cycle of workers can wait for itself
(section 4). k counts the gradients of all workers. Cost per gradient at the busiest rank: one model sent per
exchange, whatever n is, and 8 bytes for a ticket of the budget.

Deviations from the paper:
1. The gradient thread itself applies its gradient, under a lock that nobody holds across a message; the paper's
   hands it to the other thread. Both sides of an averaging therefore add an increment, x += r - s with s half the own
   model as sent and r half the peer's: gradients applied meanwhile are kept, and so is the sum of all models.
2. One averaging per gradient of an active worker; the paper's averaging thread runs as fast as it can.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main
from outpace.comm import threads, topology
from outpace.comm.clock import wait
from outpace.comm.gossip import Exchange, SharedModel
from outpace.comm.spec import PositiveFloat, PositiveInt, Seed
from outpace.comm.streams import BATCHES, PEERS

ASK, READY, MODEL, DONE = 1, 2, 3, 4  # message tags
NOTHING = [None, MPI.BYTE]


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat = 0.2  # gamma
    batch_size: PositiveInt = 16  # M, samples per gradient of one worker
    topology: str = "ring"  # SPEC of the graph, which must be bipartite
    dtype: Literal["float32", "float64"] = "float32"  # of model, gradients and messages
    seed: Seed = 0  # of data order, batches and delays
    title = "AD-PSGD"
    asynchronous = True

    def check(self, n):
        """Raise UserError for a graph of n workers that is not bipartite."""
        topology.bipartition(topology.mixing_matrix(self.topology, n), 0, self.topology)


def run(comm, problem, cfg, budget, trace):
    """One worker; collective over comm. Returns its local model x, shape (dim,)."""
    W = topology.mixing_matrix(cfg.topology, comm.size)
    active, neighbours = topology.bipartition(W, comm.rank, cfg.topology)
    model, due, gossip = SharedModel(comm, problem.x0(), trace), threads.channel(comm), comm.Dup()
    x_hat, g = model.x.copy(), model.x.copy()
    rng, peers = (np.random.default_rng([purpose, cfg.seed, comm.rank]) for purpose in (BATCHES, PEERS))
    budget.keep(x=model.x, rng=rng, peers=peers)
    averaging = threads.start(comm, ask if active else answer, gossip, neighbours, model, due, peers, trace)

    for k in budget:
        batch = rng.integers(problem.n_samples, size=cfg.batch_size)  # line 3
        read_s, seen = trace.now(), model.read(x_hat)
        problem.gradient(x_hat, batch, g)  # line 4, at the model as read
        g *= cfg.step_size
        meanwhile = model.subtract(g) - seen  # line 6
        due.put(k)
        trace.record(read_s, local_writes=meanwhile)
    due.put(None)
    averaging.join()
    gossip.Free()
    return model.x


def ask(comm, neighbours, model, due, rng, trace):
    """Active worker: average with one random passive neighbour per gradient (line 5)."""
    exchange = Exchange(comm, model, MODEL)
    for _ in iter(due.get, None):
        peer = neighbours[rng.integers(len(neighbours))]
        with trace.phase("exchange", peer, exchange.nbytes, background=True):
            exchange.average_with(peer, [comm.Irecv(NOTHING, peer, READY), comm.Isend(NOTHING, peer, ASK)])
    wait(comm, [comm.Isend(NOTHING, peer, DONE) for peer in neighbours])


def answer(comm, neighbours, model, due, rng, trace):
    """Passive worker: answer whoever asks, one after the other, until every active neighbour is done."""
    status, asking = MPI.Status(), len(neighbours)
    exchange = Exchange(comm, model, MODEL)
    while asking:
        wait(comm, [comm.Irecv(NOTHING, MPI.ANY_SOURCE, MPI.ANY_TAG)], [status])
        if status.tag == DONE:
            asking -= 1
            continue
        with trace.phase("exchange", status.source, exchange.nbytes, background=True):
            exchange.average_with(status.source, [comm.Isend(NOTHING, status.source, READY)])


if __name__ == "__main__":
    main(run, Config)
