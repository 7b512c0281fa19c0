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
from outpace.comm.arrays import copy, twin
from outpace.comm.clock import wait
from outpace.comm.gossip import SharedModel
from outpace.comm.spec import PositiveFloat, PositiveInt, Seed
from outpace.comm.streams import BATCHES, PEERS

ASK, READY, MODEL, DONE = 1, 2, 3, 4  # message tags
NOTHING = [None, MPI.BYTE]
PIECE = 2**18  # coordinates of a message


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat = 0.2  # gamma
    batch_size: PositiveInt = 16  # M, samples per gradient of one worker
    topology: str = "ring"  # SPEC of the graph, which must be bipartite
    dtype: Literal["float32", "float64"] = "float32"  # of model, gradients and messages
    seed: Seed = 0  # of data order, batches and delays
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
    exchange = Exchange(comm, model, trace)
    for _ in iter(due.get, None):
        peer = neighbours[rng.integers(len(neighbours))]
        with trace.phase("exchange", peer, exchange.nbytes, background=True):
            exchange.average_with(peer, [comm.Irecv(NOTHING, peer, READY), comm.Isend(NOTHING, peer, ASK)])
    wait(comm, [comm.Isend(NOTHING, peer, DONE) for peer in neighbours])


def answer(comm, neighbours, model, due, rng, trace):
    """Passive worker: answer whoever asks, one after the other, until every active neighbour is done."""
    status, asking = MPI.Status(), len(neighbours)
    exchange = Exchange(comm, model, trace)
    while asking:
        wait(comm, [comm.Irecv(NOTHING, MPI.ANY_SOURCE, MPI.ANY_TAG)], [status])
        if status.tag == DONE:
            asking -= 1
            continue
        with trace.phase("exchange", status.source, exchange.nbytes, background=True):
            exchange.average_with(status.source, [comm.Isend(NOTHING, status.source, READY)])


class Exchange:
    """One averaging, the same on both sides: send s = x/2, receive r at the same time, add r - s.

    The asking side's model follows its ask at once, which spares a round trip. `hail` are the requests by which the two
    hear of each other: then both look after the transfer and do not sleep. Models travel in pieces, and r - s is taken
    of one while the next is under way; the model gets the whole of it at once, so no reader sees half an averaging.
    """

    def __init__(self, comm, model, trace):
        self.comm, self.model, self.nbytes = comm, model, model.x.nbytes
        self.s, self.r = model.x.copy(), model.x.copy()
        self.s_wire = twin(self.s, comm)
        self.s_pieces, self.r_pieces, self.outgoing = pieces(self.s), pieces(self.r), pieces(self.s_wire)
        self.incoming = [twin(r, comm) for r in self.r_pieces]

    def average_with(self, peer, hail):
        self.model.halve(self.s)
        copy(self.s, self.s_wire)
        arrivals = [self.comm.Irecv(piece, peer, MODEL) for piece in self.incoming]
        departures = [self.comm.Isend(piece, peer, MODEL) for piece in self.outgoing]
        wait(self.comm, hail)
        for arrival, piece, r, s in zip(arrivals, self.incoming, self.r_pieces, self.s_pieces, strict=True):
            wait(self.comm, [arrival], under_way=True)
            copy(piece, r)
            r -= s
        wait(self.comm, departures, under_way=True)
        self.model.average(self.r)


def pieces(x):
    """Views of x, of PIECE coordinates each but for the last."""
    return [x[start : start + PIECE] for start in range(0, len(x), PIECE)]


if __name__ == "__main__":
    main(run, Config)
