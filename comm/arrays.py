"""NumPy and CuPy arrays side by side, and what MPI sees of them.

MPI must not be handed a device array unless it was built for that, and never one whose kernels are still
running (mpi4py cannot synchronise for us). So every array that is sent or received has a `twin`: the array
itself where MPI can read it, else a pinned host copy. `copy` moves the data between the two, and costs nothing
where they are one:

    g_wire = twin(g, comm)           # once
    copy(g, g_wire)                  # before MPI reads
    comm.Allreduce(MPI.IN_PLACE, g_wire)
    copy(g_wire, g)                  # after MPI wrote
"""

import ctypes
import functools
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from mpi4py import MPI

from outpace.comm.errors import UserError

# A rank's number on its node, as launchers tell it: Hydra, Open MPI's, PALS, MVAPICH2's, PMI's and, last, srun, which
# also numbers the one task of a batch script in which another launcher starts the ranks.
LOCAL_RANK_VARIABLES = (
    *("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "PALS_LOCAL_RANKID", "MV2_COMM_WORLD_LOCAL_RANK"),
    *("PMI_LOCAL_RANK", "SLURM_LOCALID"),
)


def module(x: Any) -> ModuleType:
    """The array module of `x`: numpy or cupy."""
    if isinstance(x, np.ndarray):
        return np
    import cupy

    return cupy  # type: ignore[no-any-return]


def load(backend: str, comm: MPI.Intracomm) -> ModuleType:
    """numpy or cupy for `backend` numpy, cupy or auto (cupy where every rank has a device); collective.

    With cupy the rank's device is chosen: the only visible one, else by local rank. Raises UserError on every
    rank where cupy was asked for and some rank has no device.
    """
    if backend == "numpy":
        return np
    reason = no_device()
    reasons = [(rank, text) for rank, text in enumerate(comm.allgather(reason)) if text]
    if not reasons:
        import cupy

        cupy.cuda.Device(local_rank(comm) % cupy.cuda.runtime.getDeviceCount()).use()
        return cupy  # type: ignore[no-any-return]
    if backend == "cupy":
        raise UserError(f"--backend cupy: rank {reasons[0][0]} {reasons[0][1]}; allowed here: numpy, auto")
    return np


def local_rank(comm: MPI.Intracomm) -> int:
    """This rank's number on its node; collective over comm."""
    told = {name: os.environ[name] for name in LOCAL_RANK_VARIABLES if os.environ.get(name, "").isdigit()}
    return place_on_node(comm.allgather((platform.node(), told)), comm.rank)


def place_on_node(ranks: Sequence[tuple[str, Mapping[str, str]]], rank: int) -> int:
    """The number of `rank` on its node, by each rank's node and LOCAL_RANK_VARIABLES.

    The first variable counts that numbers the ranks of every node differently: one that is left over from another
    launcher says the same to all. Without one, it is the order of the ranks.

    >>> place_on_node([("a", {"SLURM_LOCALID": "0"}), ("a", {"SLURM_LOCALID": "0"})], rank=1)
    1
    """
    for name in LOCAL_RANK_VARIABLES:
        numbers = [told.get(name) for _, told in ranks]
        if None not in numbers and len({(node, told[name]) for node, told in ranks}) == len(ranks):
            return int(ranks[rank][1][name])
    node, _ = ranks[rank]
    return sum(other == node for other, _ in ranks[:rank])


def no_device() -> str:
    """Why this process cannot use CuPy, or nothing."""
    try:
        import cupy
    except ImportError:
        return "has no CuPy"
    return "" if cupy.cuda.is_available() else "has CuPy but no GPU"


def current_device() -> Any:
    """The device that this thread uses, a cupy.cuda.Device; None where this process has not loaded CuPy."""
    cupy = sys.modules.get("cupy")
    return cupy.cuda.Device() if cupy and cupy.cuda.is_available() else None


def device_name() -> str:
    """The device in use, as no other one is called: its PCI address and its UUID.

    CuPy reads the UUID as a C string, so it may be cut; together with the address it is still the device's own.
    """
    import cupy

    number = cupy.cuda.Device().id
    uuid = cupy.cuda.runtime.getDeviceProperties(number)["uuid"]
    return f"{cupy.cuda.runtime.deviceGetPCIBusId(number)} {uuid.hex()}"


def cuda_aware(comm: MPI.Intracomm) -> bool:
    """Whether this MPI says that it reads device memory. In doubt it does not: guessing wrong is a crash."""
    info = comm.Get_info()
    kinds = info.Get("mpi_memory_alloc_kinds") or ""
    info.Free()
    return "cuda" in kinds or _cuda_support_of_library()


@functools.cache
def _cuda_support_of_library() -> bool:
    # The symbol is not global in the process, so the loaded library is found among the mapped files.
    with open("/proc/self/maps") as maps:
        libraries = {line.split()[-1] for line in maps if "/libmpi" in line}
    for library in libraries:
        query = getattr(ctypes.CDLL(library), "MPIX_Query_cuda_support", None)
        if query is not None:
            return bool(query())
    return False


def twin(x: Any, comm: MPI.Intracomm) -> Any:
    """The array through which MPI sees `x`: `x` itself, or a pinned host array of its shape and dtype."""
    if isinstance(x, np.ndarray) or cuda_aware(comm):
        return x
    import cupyx

    return cupyx.empty_like_pinned(x)


def copy(source: Any, target: Any) -> None:
    """Make `target` hold `source`, on whichever side each lives; complete, for MPI too, on return."""
    if source is not target:
        if isinstance(source, np.ndarray) and isinstance(target, np.ndarray):
            np.copyto(target, source)
        elif isinstance(target, np.ndarray):
            source.get(out=target)
        elif isinstance(source, np.ndarray):
            target.set(source)
        else:
            target[...] = source
    # The side on the device: from pinned memory an upload, too, has only begun.
    synchronise(target if isinstance(source, np.ndarray) else source)


def synchronise(x: Any) -> None:
    """Wait until the kernels that write `x` are done."""
    if not isinstance(x, np.ndarray):
        import cupy

        cupy.cuda.get_current_stream().synchronize()


def to_host(x: Any) -> np.ndarray:
    """`x` as a NumPy array, without a copy where it is one."""
    return x if isinstance(x, np.ndarray) else x.get()


class Wired:
    """An array of zeros where the kernels work, and what MPI sees of it."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, xp: ModuleType, comm: MPI.Intracomm) -> None:
        self.array = xp.zeros(shape, dtype=dtype)
        self.wire = twin(self.array, comm)
        self.nbytes = int(self.array.nbytes)

    def to_wire(self, row: int | None = None) -> Any:
        """The buffer, with the array's content or with that of one row."""
        rows = slice(None) if row is None else slice(row, row + 1)
        copy(self.array[rows], self.wire[rows])
        return self.wire

    def from_wire(self) -> Any:
        """The array, with what was received."""
        copy(self.wire, self.array)
        return self.array
