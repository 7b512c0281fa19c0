"""A stand-in for NCCL, of CuPy's `cupy.cuda.nccl`, for the device of `device_on_cpu`: what its queues do between ranks.

An operation waits in the queue of its stream like any other and is carried by MPI when its turn comes, so it sends what
is in memory then. A send alone ends when it has been received, so two workers that do not group their send and their
receive wait for each other. Whoever waits for `PATIENCE_S` in vain, meets another collective, or launches an operation
before its last one is over, fails: NCCL would hang.
"""

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from types import SimpleNamespace
from typing import Any

import device_on_cpu
import numpy as np
import pytest
from mpi4py import MPI

PATIENCE_S = 20.0
KINDS = {"NCCL_INT8": "i1", "NCCL_UINT8": "u1", "NCCL_UINT32": "u4", "NCCL_FLOAT32": "f4", "NCCL_FLOAT64": "f8"}
TYPES = [np.dtype(kind) for kind in KINDS.values()]  # by the numbers that stand for them here
SUM = 0


class NcclError(RuntimeError):
    """As of CuPy."""


@dataclass
class Part:
    """One send, or one receive, of a group."""

    communicator: MPI.Intracomm
    memory: np.ndarray
    peer: int
    sends: bool

    def begin(self) -> MPI.Request:
        start = self.communicator.Issend if self.sends else self.communicator.Irecv
        return start(self.memory, self.peer)


class Nccl(SimpleNamespace):
    """The module, of one rank."""

    def __init__(self, cupy: device_on_cpu.Cupy) -> None:
        super().__init__(available=True, NcclError=NcclError, NCCL_SUM=SUM)
        for number, name in enumerate(KINDS):
            setattr(self, name, number)
        self.device, self.group, self.depth, self.stream = cupy.device, list[Part](), 0, 0
        self.under_way = 0
        self.launched: list[str] = []
        self.NcclCommunicator = lambda *arguments: Communicator(self, *arguments)

    def get_unique_id(self) -> tuple[int, ...]:
        return tuple(range(128))

    def groupStart(self) -> None:
        self.depth += 1

    def groupEnd(self) -> None:
        self.depth -= 1
        if self.depth == 0 and self.group:
            parts, self.group = self.group, []
            reads, writes = ([each.memory for each in parts if each.sends is sends] for sends in (True, False))
            self.launch("group", self.stream, lambda: _complete([each.begin() for each in parts]), reads, writes)

    def launch(
        self, name: str, stream: int, run: Callable[[], None], reads: list[np.ndarray], writes: list[np.ndarray]
    ) -> None:
        assert not self.under_way, f"{name} is launched before another operation is over"
        self.under_way += 1
        self.launched.append(name)

        def whole() -> None:
            run()
            self.under_way -= 1

        (queue,) = (queue for queue in self.device.queues if id(queue) == stream)
        self.device.launch(whole, reads, writes, kernel=f"nccl {name}", queue=queue)


class Communicator:
    """NcclCommunicator."""

    def __init__(self, nccl: Nccl, ndev: int, identity: Any, rank: int) -> None:
        self._nccl, self._comm = nccl, MPI.COMM_WORLD.Dup()
        assert (ndev, rank) == (self._comm.size, self._comm.rank)
        assert self._comm.allgather(identity) == [identity] * ndev

    def send(self, sendbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        self._part(Part(self._comm, _memory(sendbuf, count, datatype), peer, True), stream)

    def recv(self, recvbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        self._part(Part(self._comm, _memory(recvbuf, count, datatype), peer, False), stream)

    def _part(self, part: Part, stream: int) -> None:
        nccl = self._nccl
        nccl.groupStart()
        nccl.group.append(part)
        nccl.stream = stream
        nccl.groupEnd()

    def allReduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int) -> None:
        assert op == SUM
        self._collective("sum", sendbuf, count, recvbuf, count, datatype, lambda parts: reduce(np.add, parts), stream)

    def allGather(self, sendbuf: int, recvbuf: int, count: int, datatype: int, stream: int) -> None:
        whole = count * self._comm.size
        self._collective("allgather", sendbuf, count, recvbuf, whole, datatype, np.concatenate, stream)

    def broadcast(self, sendbuf: int, recvbuf: int, count: int, datatype: int, root: int, stream: int) -> None:
        self._collective(f"of {root}", sendbuf, count, recvbuf, count, datatype, lambda parts: parts[root], stream)

    def _collective(
        self,
        name: str,
        sendbuf: int,
        count: int,
        recvbuf: int,
        received: int,
        datatype: int,
        result: Callable[[list[np.ndarray]], np.ndarray],
        stream: int,
    ) -> None:
        source, target = _memory(sendbuf, count, datatype), _memory(recvbuf, received, datatype)

        def run() -> None:
            _complete([self._comm.Ibarrier()])
            told = self._comm.allgather((name, count, datatype, source))
            assert {each[:3] for each in told} == {(name, count, datatype)}, "collectives that do not meet"
            target[:] = result([part for *_, part in told])

        self._nccl.launch(name, stream, run, [source], [target])

    def destroy(self) -> None:
        assert not self._nccl.under_way
        self._comm.Free()


def _memory(pointer: int, count: int, datatype: int) -> np.ndarray:
    dtype = TYPES[datatype]
    memory = (ctypes.c_ubyte * (count * dtype.itemsize)).from_address(pointer)
    return np.frombuffer(memory, dtype)


def _complete(requests: list[MPI.Request]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not MPI.Request.Testall(requests):
        assert time.monotonic() < until, "an operation that does not end"
        time.sleep(1e-5)


def install(patch: pytest.MonkeyPatch, cupy: device_on_cpu.Cupy) -> Nccl:
    """Put this in the place of CuPy's, which `device_on_cpu` has in the place of CuPy."""
    nccl = Nccl(cupy)
    patch.setattr(cupy.cuda, "nccl", nccl)
    return nccl
