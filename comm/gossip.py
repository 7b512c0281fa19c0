"""What gossip programs share between the threads of a worker, the local model behind a lock, the exchange by which
two workers average theirs, and what a communication thread hears."""

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
from mpi4py import MPI

from outpace.comm import topology, vectors
from outpace.comm.arrays import Turns, carrier, mark, module, own_stream, start_copy, synchronise, twin
from outpace.comm.bfloat16 import SAME, WireFormat
from outpace.comm.clock import poll, wait
from outpace.comm.threads import Channel, lock

PIECE: Final = 2**22  # coordinates of a message, which costs several calls, and on a device kernels and an event
NOTHING: Final = [None, MPI.BYTE]  # the buffer of a message that is its tag alone


class TakesSnapshots(Protocol):
    """The part of a trace that a model needs."""

    def snapshot(self, x: Any) -> None: ...


class SharedModel:
    """A worker's model x, shape (dim,), read and written by its gradient loop and its communication thread.

    Every write adds an increment, so writes commute and none is lost. The lock is held for a pass over the vector,
    never across a message; on a device, where a pass is only launched meanwhile, it puts the passes of both threads'
    streams in order, too. `averagings` counts the writes of the communication thread.
    """

    def __init__(self, comm: MPI.Intracomm, x: Any, trace: TakesSnapshots) -> None:
        self.x = x
        self.averagings = 0
        self._descend, self._add_difference = vectors.descend.like(x), vectors.add_difference.like(x)
        self._lock = Turns(lock(comm), x)
        self._trace = trace

    def read(self, target: Any) -> int:
        """Copy the model to `target`; the averagings it has seen."""
        with self._lock:
            start_copy(self.x, target)
            return self.averagings

    def weigh(self, weight: float, target: Any) -> None:
        """`weight` times the model to `target`: what an averaging sends."""
        with self._lock:
            module(target).multiply(self.x, weight, out=target)

    def descend(self, gamma: float, g: Any) -> int:
        """x -= gamma g; the averagings that x had seen before."""
        with self._lock:
            self._trace.snapshot(self.x)
            self._descend(gamma, 1, g, self.x)
            return self.averagings

    def average(self, received: Any, sent: Any) -> None:
        """x += received - sent, what came from the peer less what it got.

        The peer adds the opposite, to the bit, so the sum of both models stays, to the rounding of the additions.
        """
        with self._lock:
            self._trace.snapshot(self.x)
            self._add_difference(received, sent, self.x)
            self.averagings += 1


class Exchange:
    """One averaging, the same on both sides: send s = w x, receive r = w x_peer at the same time, add r - s.

    The weight w, between 0 and 1, is the peer's of `weights`; both sides must have the same; w = 1/2 is the mean.
    Models travel in pieces, as messages with this tag. The model gets the whole of r - s at once, so no reader sees
    half an averaging. `nbytes` is what a side sends. Where the form of messages is shorter than that of models, s is
    what was sent, so that the sum of both models stays all the same.

    On a device all this happens in a stream of its own: a gradient that is being computed there is not waited for. NCCL
    carries a model in one message.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        model: SharedModel,
        tag: int,
        weights: Sequence[float],
        form: WireFormat = SAME,
    ) -> None:
        self.comm, self.model, self.tag, self._form = comm, model, tag, form
        self._weights, self._stream = weights, own_stream(model.x)
        with self._stream:
            s, r = (module(model.x).ones_like(model.x) for _ in range(2))
            s_words, r_words = form.like(s), form.like(r)
            synchronise(r)  # which MPI may write
        self._by_nccl = module(r) is not np and carrier(comm) is not None
        self._s, self._s_words, self._r, self._r_words, self.nbytes = s, s_words, r, r_words, int(s_words.nbytes)
        self._r_pieces = _pieces(r)
        self._leaving, self._come = _pieces(s_words), _pieces(r_words)
        self._outgoing, self._incoming = _pieces(twin(s_words, comm)), _pieces(twin(r_words, comm))

    def average_with(self, peer: int, hail: Sequence[MPI.Request]) -> None:
        """`hail` are the handshake requests."""
        with self._stream:
            (self._send_whole if self._by_nccl else self._send_pieces)(peer, hail)
            self.model.average(self._r, self._s)
            synchronise(self._r)  # MPI may write what has been uploaded

    def _send_pieces(self, peer: int, hail: Sequence[MPI.Request]) -> None:
        """Models are posted before the handshake completes, which spares a round trip; then both sides poll and do not
        sleep."""
        arrivals = [self.comm.Irecv(piece, peer, self.tag) for piece in self._incoming]
        self._weigh(peer)
        departures = self._depart(peer)
        self._form.widen(self._s_words, self._s)  # s is what was sent
        wait(self.comm, hail)
        for arrival, piece, words, r in zip(arrivals, self._incoming, self._come, self._r_pieces, strict=True):
            wait(self.comm, [arrival], under_way=True)
            start_copy(piece, words)
            self._form.widen(words, r)
        wait(self.comm, departures, under_way=True)

    def _send_whole(self, peer: int, hail: Sequence[MPI.Request]) -> None:
        """By NCCL, when the peer is here: what waits for it would wait on the device, see `nccl`."""
        self._weigh(peer)
        self._form.widen(self._s_words, self._s)
        wait(self.comm, hail)
        self.comm.Sendrecv(self._s_words, peer, self.tag, self._r_words, peer, self.tag)
        self._form.widen(self._r_words, self._r)

    def _weigh(self, peer: int) -> None:
        self.model.weigh(self._weights[peer], self._s)
        self._form.narrow(self._s, self._s_words)

    def _depart(self, peer: int) -> list[MPI.Request]:
        """Send s, each piece as soon as it can be read."""
        marks = []
        for words, piece in zip(self._leaving, self._outgoing, strict=True):
            start_copy(words, piece)
            marks.append(mark(words))
        departures = []
        for ready, piece in zip(marks, self._outgoing, strict=True):
            ready.synchronize()
            departures.append(self.comm.Isend(piece, peer, self.tag))
        return departures


def _pieces(x: Any) -> list[Any]:
    """Views of x, of PIECE coordinates each but for the last."""
    return [x[start : start + PIECE] for start in range(0, len(x), PIECE)]


def exchange_weights(W: topology.Matrix, rank: int) -> list[float]:
    """The weight w of an averaging of `rank` with each worker: x_i, x_j <- (1 - w) x_i + w x_j, (1 - w) x_j + w x_i.

    The plain average, w = 1/2, where W has Metropolis's weight, and otherwise in proportion to W's, up to 1/2; 0 where
    there is no edge.

    >>> [exchange_weights(topology.mixing_matrix(text, 4), 0) for text in ("ring", "ring:lazy=1")]
    [[0.0, 0.5, 0.0, 0.5], [0.0, 0.25, 0.0, 0.25]]
    """
    degree, weights = _degrees(W), [0.0] * len(W)
    for j in topology.neighbours(W, rank):
        plain = 1.0 / (1.0 + max(degree[rank], degree[j]))  # as `topology.metropolis`
        weights[j] = min(0.5, 0.5 * float(W[rank, j] / plain))
    return weights


@topology.once
def _degrees(W: topology.Matrix) -> list[int]:
    """How many neighbours each worker has."""
    return ((W != 0).sum(axis=1) - (W.diagonal() != 0)).tolist()  # type: ignore[no-any-return]


def hear(comm: MPI.Intracomm, words: Channel[int], patient: bool = True) -> tuple[int, int] | None:
    """The next word to this worker's communication thread, as (who, what): what its own gradient loop has put into
    `words`, or the tag of an empty message. Where nothing has been said, it waits, or returns None if not `patient`.

    Words of one worker come in the order in which they were said.
    """
    status = MPI.Status()

    def word() -> tuple[int, int] | None:
        if not words.empty():
            return comm.rank, words.get()
        if comm.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG, status):
            comm.Recv(NOTHING, status.source, status.tag)
            return status.source, status.tag
        return None

    return poll(comm, word) if patient else word()
