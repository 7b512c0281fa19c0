"""Messages of device arrays by NCCL, from the memory of one GPU to that of another: `--fabric nccl`.

`connect(comm)` makes an NCCL communicator of the ranks of an MPI one. From then on the methods of `ByNccl`, on `comm`
and on what is duplicated from it, are NCCL's where their arrays live on a device and MPI's where they live on the host.
A program calls them as ever:

    comm.Allreduce(MPI.IN_PLACE, g)

NCCL's part is put into the stream of the calling thread, behind the kernels that make what is sent, so nothing has to
be waited for before. As with MPI it is done on return.

There is one NCCL communicator, of all ranks, and each rank has one operation of it under way at a time: of the threads
of a rank one alone sends device arrays, and waits for each before the next. The reasons:

- Collectives must be issued in one order on all ranks. Synchronous programs do so.
- An averaging of two workers is a group of a send and a receive, which meets the other's and nobody else's. Both sides
  have agreed on it by MPI, so it waits for no third one, whatever pairs there are at the same time. It is launched
  after they have: a kernel of NCCL's that waits takes processors of the device from gradients. Where the pairs of all
  rounds are known to all, the earliest round that is not over can always go on.
- A communicator for each pair, the other way, takes device memory and a start of all pairs, n (n - 1) / 2 of them where
  partners are drawn from all; and operations of two communicators on one device may wait for each other for ever
  (NCCL's user guide, "Using multiple NCCL communicators concurrently") unless one ends before the next begins, which is
  just what one communicator asks for.
- The first operation is one of all ranks, a greeting of everybody to everybody (PyTorch asks for one before messages of
  some ranks alone, `batch_isend_irecv`). It makes all connections, so none is made in the timed part.

Reductions are sums. All else goes as bytes.
"""

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from mpi4py import MPI

from outpace.comm import agreement
from outpace.comm.arrays import (
    carrier,
    carry_device_arrays,
    device_name,
    mark,
    own_stream,
    send_device_arrays,
    synchronise,
)
from outpace.comm.errors import LocalError, UserError


def connect(comm: MPI.Intracomm) -> None:
    """Have NCCL carry messages of device arrays on `comm`; collective, on ranks that have a device.

    Raises UserError on every rank where one has no NCCL or two share a device; LocalError on a rank that NCCL does not
    connect, for which the others wait.
    """
    import cupy

    nccl = _library()
    told = comm.allgather((nccl.available, device_name()))
    devices = [device for _, device in told]
    for rank, (available, device) in enumerate(told):
        if not available:
            raise UserError(f"--fabric nccl: rank {rank} has CuPy without NCCL; allowed here: mpi")
        if (other := devices.index(device)) < rank:
            raise UserError(f"--fabric nccl: ranks {other} and {rank} share a GPU; NCCL needs one for each")
    identity = comm.bcast(agreement.on_root(comm, lambda: _identity(nccl)))
    everybody = range(comm.size)
    try:
        link = Link(nccl, comm.size, identity, comm.rank)
        greetings = cupy.zeros((2, comm.size, 1), "u1")
        link.exchange(zip(greetings[0], everybody, strict=True), zip(greetings[1], everybody, strict=True))
        synchronise(greetings)
    except nccl.NcclError as error:
        raise LocalError(f"--fabric nccl: {error}") from None
    carry_device_arrays(comm, link)
    send_device_arrays(comm, "direct")


def disconnect(comm: MPI.Intracomm) -> None:
    """Give back what `connect` took; collective."""
    carrier(comm).close()
    carry_device_arrays(comm, None)


def _library() -> Any:
    """CuPy's module. Without a library it says so by its `available`, and at length in a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cupy.cuda import nccl
    return nccl


def _identity(nccl: Any) -> Any:
    """What the ranks of a new communicator know each other by."""
    try:
        return nccl.get_unique_id()
    except nccl.NcclError as error:
        raise UserError(f"--fabric nccl: {error}; allowed here: mpi") from None


class Link:
    """An NCCL communicator of n ranks. An operation is put into this thread's stream, and not waited for."""

    def __init__(self, nccl: Any, n: int, identity: Any, rank: int) -> None:
        """Collective. Raises NcclError."""
        self._nccl, self.n, self.rank = nccl, n, rank
        self._communicator = nccl.NcclCommunicator(n, identity, rank)

    def allreduce(self, source: Any, target: Any, op: MPI.Op) -> None:
        """target <- the sum of all ranks' source, which it may be itself. Raises UserError for other reductions."""
        if op != MPI.SUM:
            raise UserError("--fabric nccl carries sums of device arrays, and no other reductions")
        kind = getattr(self._nccl, f"NCCL_{target.dtype.name.upper()}")
        pointers = source.data.ptr, target.data.ptr
        self._communicator.allReduce(*pointers, target.size, kind, self._nccl.NCCL_SUM, _stream())

    def allgather(self, part: Any, whole: Any) -> None:
        """whole, in n equal parts, <- the parts of all ranks"""
        self._communicator.allGather(part.data.ptr, whole.data.ptr, part.nbytes, self._nccl.NCCL_UINT8, _stream())

    def broadcast(self, x: Any, root: int) -> None:
        """x <- the root's"""
        pointers = x.data.ptr, x.data.ptr
        self._communicator.broadcast(*pointers, x.nbytes, self._nccl.NCCL_UINT8, root, _stream())

    def exchange(self, outgoing: Iterable[tuple[Any, int]], incoming: Iterable[tuple[Any, int]]) -> None:
        """Send arrays to ranks, and take in arrays from ranks, all at the same time."""
        nccl, stream = self._nccl, _stream()
        nccl.groupStart()
        for x, rank in outgoing:
            self._communicator.send(x.data.ptr, x.nbytes, nccl.NCCL_UINT8, rank, stream)
        for x, rank in incoming:
            self._communicator.recv(x.data.ptr, x.nbytes, nccl.NCCL_UINT8, rank, stream)
        nccl.groupEnd()

    def parts(self, x: Any) -> list[tuple[Any, int]]:
        """x in n equal parts, each with its rank."""
        return list(zip(x.reshape(self.n, -1), range(self.n), strict=True))

    def close(self) -> None:
        self._communicator.destroy()


class ByNccl(MPI.Intracomm):
    """MPI's methods of these names, of device arrays NCCL's where the communicator is connected."""

    def Allreduce(self, sendbuf: Any, recvbuf: Any, op: MPI.Op = MPI.SUM) -> None:
        if link := _link(self, recvbuf):
            link.allreduce(_source(sendbuf, recvbuf), recvbuf, op)
            synchronise(recvbuf)
        else:
            super().Allreduce(sendbuf, recvbuf, op)

    def Iallreduce(self, sendbuf: Any, recvbuf: Any, op: MPI.Op = MPI.SUM) -> Any:
        """By NCCL in a stream of its own, behind what this thread's has launched."""
        link = _link(self, recvbuf)
        if link is None:
            return super().Iallreduce(sendbuf, recvbuf, op)
        ready = mark(recvbuf)
        with own_stream(recvbuf) as stream:
            stream.wait_event(ready)
            link.allreduce(_source(sendbuf, recvbuf), recvbuf, op)
            return Launched(stream, mark(recvbuf))

    def Allgather(self, sendbuf: Any, recvbuf: Any) -> None:
        if link := _link(self, recvbuf):
            part, _ = link.parts(recvbuf)[self.rank]
            link.allgather(_source(sendbuf, part), recvbuf)
            synchronise(recvbuf)
        else:
            super().Allgather(sendbuf, recvbuf)

    def Alltoall(self, sendbuf: Any, recvbuf: Any) -> None:
        if link := _link(self, recvbuf):
            link.exchange(link.parts(sendbuf), link.parts(recvbuf))
            synchronise(recvbuf)
        else:
            super().Alltoall(sendbuf, recvbuf)

    def Gather(self, sendbuf: Any, recvbuf: Any, root: int = 0) -> None:
        if link := _link(self, sendbuf):
            link.exchange([(sendbuf, root)], link.parts(recvbuf) if self.rank == root else ())
            synchronise(sendbuf)
        else:
            super().Gather(sendbuf, recvbuf, root)

    def Bcast(self, buf: Any, root: int = 0) -> None:
        if link := _link(self, buf):
            link.broadcast(buf, root)
            synchronise(buf)
        else:
            super().Bcast(buf, root)

    def Sendrecv(
        self,
        sendbuf: Any,
        dest: int,
        sendtag: int = 0,
        recvbuf: Any = None,
        source: int = MPI.ANY_SOURCE,
        recvtag: int = MPI.ANY_TAG,
        status: MPI.Status | None = None,
    ) -> None:
        """By NCCL from a source that is named; its messages have no tags."""
        if link := _link(self, recvbuf):
            link.exchange([(sendbuf, dest)], [(recvbuf, source)])
            synchronise(recvbuf)
        else:
            super().Sendrecv(sendbuf, dest, sendtag, recvbuf, source, recvtag, status)


class Launched:
    """The request of what is done in a stream of its own."""

    def __init__(self, stream: Any, end: Any) -> None:
        self._stream, self._end = stream, end

    def Test(self) -> bool:
        return bool(self._end.done)

    def Wait(self) -> None:
        self._end.synchronize()


def _link(comm: MPI.Intracomm, buffer: Any) -> Link | None:
    """What carries this buffer, if it is a device array and `comm` is connected."""
    if isinstance(buffer, np.ndarray):  # most are, and to ask the communicator takes longer
        return None
    link: Link | None = carrier(comm)
    if link is None:
        return None
    import cupy

    return link if isinstance(buffer, cupy.ndarray) else None


def _source(sendbuf: Any, recvbuf: Any) -> Any:
    return recvbuf if sendbuf is MPI.IN_PLACE else sendbuf


def _stream() -> int:
    import cupy

    return int(cupy.cuda.get_current_stream().ptr)
