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
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, Literal

import numpy as np
from mpi4py import MPI

from outpace.comm.errors import UserError

# A rank's number on its node, as launchers tell it: Hydra, Open MPI's, PALS, MVAPICH2's, PMI's and, last, srun, which
# also numbers the one task of a batch script in which another launcher starts the ranks.
LOCAL_RANK_VARIABLES = (
    *("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "PALS_LOCAL_RANKID", "MV2_COMM_WORLD_LOCAL_RANK"),
    *("PMI_LOCAL_RANK", "SLURM_LOCALID"),
)
NO_CUPY = "has no CuPy"
PER_THREAD = "CUPY_CUDA_PER_THREAD_DEFAULT_STREAM"

DeviceMessages = Literal["auto", "staged", "direct"]
Fabric = Literal["mpi", "nccl"]


def module(x: Any) -> ModuleType:
    """The array module of `x`: numpy or cupy."""
    if isinstance(x, np.ndarray | np.generic):
        return np
    import cupy

    return cupy  # type: ignore[no-any-return]


def load(backend: str, comm: MPI.Intracomm, messages: DeviceMessages = "auto") -> ModuleType:
    """numpy or cupy for `backend` numpy, cupy or auto (cupy where every rank has a device); collective.

    With cupy the rank's device is chosen: the only visible one, else by local rank; and how its arrays travel as
    messages. Raises UserError on every rank where cupy was asked for and some rank has no device.
    """
    if backend == "numpy":
        return np
    reason = without_device(comm)
    if not reason:
        import cupy

        cupy.cuda.Device(local_rank(comm) % cupy.cuda.runtime.getDeviceCount()).use()
        send_device_arrays(comm, messages)
        return cupy  # type: ignore[no-any-return]
    if backend == "cupy":
        raise UserError(f"--backend cupy: {reason}; allowed here: numpy, auto")
    return np


def without_device(comm: MPI.Intracomm) -> str:
    """Which rank cannot use a device, and why; nothing where all can; collective."""
    reasons = enumerate(comm.allgather(no_device()))
    return next((f"rank {rank} {reason}" for rank, reason in reasons if reason), "")


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
        return NO_CUPY
    if not cupy.cuda.is_available():
        return "has CuPy but no GPU"
    if os.environ.get(PER_THREAD, "0") != "0":
        return f"has {PER_THREAD} set, and a default stream for each thread puts the kernels of two in no order"
    return ""


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


def send_device_arrays(comm: MPI.Intracomm, how: DeviceMessages) -> None:
    """Have messages on `comm`, and on what is duplicated from it, come from device memory itself, `direct`, or be
    `staged` in pinned memory of the host; `auto` as the MPI says; collective."""
    comm.Set_attr(_direct(), how == "direct" or (how == "auto" and all(comm.allgather(cuda_aware(comm)))))


def device_messages(comm: MPI.Intracomm) -> str:
    """How messages of device arrays travel on `comm`: `direct`, or `staged`, also where nobody has said."""
    return "direct" if comm.Get_attr(_direct()) else "staged"


@functools.cache  # not before MPI is started, which whoever imports this need not do
def _direct() -> int:
    """The attribute of communicators, and of their duplicates, that says whether messages come from device memory."""
    return MPI.Comm.Create_keyval(copy_fn=lambda comm, key, direct: direct)


def carry_device_arrays(comm: MPI.Intracomm, link: Any) -> None:
    """Have messages of device arrays on `comm`, and on what is duplicated from it, carried by this `nccl.Link`; by MPI
    where it is None."""
    comm.Set_attr(_carrier(), link)


def carrier(comm: MPI.Intracomm) -> Any:
    """The `nccl.Link` that carries messages of device arrays on `comm`; None where MPI does."""
    return comm.Get_attr(_carrier())


@functools.cache
def _carrier() -> int:
    return MPI.Comm.Create_keyval(copy_fn=lambda comm, key, link: link)


def cuda_aware(comm: MPI.Intracomm) -> bool:
    """Whether this MPI says that it reads device memory. In doubt it does not: guessing wrong is a crash."""
    info = comm.Get_info()
    kinds = [kind.strip().split(":") for kind in (info.Get("mpi_memory_alloc_kinds") or "").split(",")]
    info.Free()
    devices = any(name == "cuda" and (not where or "device" in where) for name, *where in kinds)  # MPI 4.1, 12.4.3
    return devices or _cuda_support_of_library()


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
    return x if isinstance(x, np.ndarray) or device_messages(comm) == "direct" else pinned(x)


def pinned(x: Any) -> np.ndarray:
    """An array of the host like the device array x, to and from which copies need not be waited for."""
    import cupyx

    return cupyx.empty_like_pinned(x)  # type: ignore[no-any-return]


def copy(source: Any, target: Any) -> None:
    """Make `target` hold `source`, on whichever side each lives; what is on the host, or `source` itself where it is
    `target`, is complete for MPI on return."""
    if source is target:
        synchronise(target)
    elif isinstance(target, np.ndarray) and not isinstance(source, np.ndarray):
        source.get(out=target)  # which waits
    else:
        start_copy(source, target)
        if isinstance(source, np.ndarray):  # from pinned memory an upload has only begun
            synchronise(target)


def start_copy(source: Any, target: Any) -> None:
    """As `copy`, without waiting: what is launched next in this stream comes after it, and `mark` tells the end."""
    if source is target:
        return
    if isinstance(source, np.ndarray) and isinstance(target, np.ndarray):
        np.copyto(target, source)
    elif isinstance(target, np.ndarray):
        source.get(out=target, blocking=False)
    elif isinstance(source, np.ndarray):
        target.set(source)
    else:
        target[...] = source


class Reached:
    """The mark of work that is done when it is called."""

    def synchronize(self) -> None:
        """Wait until the work before the mark is done."""


def mark(x: Any) -> Any:
    """A mark behind what this thread's stream does to x so far, as `Reached`; a cupy.cuda.Event on a device."""
    if isinstance(x, np.ndarray):
        return Reached()
    import cupy

    return cupy.cuda.get_current_stream().record(cupy.cuda.Event(block=True, disable_timing=True))


class Stretch:
    """Work of this thread's stream on x, from here to `end`, on the clock `now`."""

    def __init__(self, x: Any, now: Callable[[], float]) -> None:
        self._now, self._launched_s, self._start = now, now(), _timed_mark(x)

    def end(self, x: Any) -> float:
        """Wait until the work is done; when it began: on a device not before what had been launched before was done."""
        end = _timed_mark(x)
        if end is None:
            return self._launched_s
        import cupy

        end.synchronize()
        elapsed_s: float = cupy.cuda.get_elapsed_time(self._start, end) / 1e3
        return max(self._launched_s, self._now() - elapsed_s)


def _timed_mark(x: Any) -> Any:
    """A mark with a time, of device arrays."""
    if isinstance(x, np.ndarray):
        return None
    import cupy

    return cupy.cuda.get_current_stream().record(cupy.cuda.Event(block=True))


class Later:
    """A number that arrays like x give, read without a wait of its own: `put` it, wait for what comes behind it in this
    thread's stream, and `get` it."""

    def __init__(self, x: Any) -> None:
        self._value: Any = np.zeros((), x.dtype) if isinstance(x, np.ndarray) else pinned(x[:1].sum())

    def put(self, value: Any) -> None:
        """`value`, of the type of x: a NumPy scalar, or a device array of shape ()."""
        if module(value) is np:
            self._value = value
        else:
            value.get(out=self._value, blocking=False)

    def get(self) -> float:
        return float(self._value)


def own_stream(x: Any) -> AbstractContextManager[Any]:
    """A context whose kernels on arrays like x wait for no other thread's: on a device a stream of its own, which does
    not take turns with the default stream."""
    if isinstance(x, np.ndarray):
        return nullcontext()
    import cupy

    return cupy.cuda.Stream(non_blocking=True)  # type: ignore[no-any-return]


class Turns:
    """A lock for x, whose holders' kernels take turns as well: what one has launched is done before what the next one
    launches begins, each in the stream of its thread. Nobody waits on the host but for the lock."""

    def __init__(self, lock: AbstractContextManager[Any], x: Any) -> None:
        self._lock, self._last = lock, None
        if not isinstance(x, np.ndarray):
            import cupy

            self._last = mark(x)
            self._stream = cupy.cuda.get_current_stream

    def __enter__(self) -> None:
        self._lock.__enter__()
        if self._last is not None:
            self._stream().wait_event(self._last)

    def __exit__(self, *error: Any) -> None:
        if self._last is not None:
            self._stream().record(self._last)
        self._lock.__exit__(*error)


def synchronise(x: Any) -> None:
    """Wait until the kernels of this thread's stream that write `x` are done."""
    if not isinstance(x, np.ndarray):
        import cupy

        cupy.cuda.get_current_stream().synchronize()


def to_host(x: Any) -> np.ndarray:
    """`x` as a NumPy array, without a copy where it is one."""
    return x if isinstance(x, np.ndarray) else x.get()


class Wired:
    """An array of zeros where the kernels work, and what MPI sees of it.

    For a non-blocking reduction, `meanwhile`, it is staged: Open MPI does none on device memory. NCCL does.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: Any, xp: ModuleType, comm: MPI.Intracomm, meanwhile: bool = False
    ) -> None:
        self.array = xp.zeros(shape, dtype=dtype)
        staged = meanwhile and xp is not np and carrier(comm) is None
        self.wire = pinned(self.array) if staged else twin(self.array, comm)
        self.nbytes = int(self.array.nbytes)

    def to_wire(self, row: int | None = None) -> Any:
        """The buffer, with the array's content or with that of one row."""
        if self.wire is self.array:
            synchronise(self.array)
        else:
            rows = slice(None) if row is None else slice(row, row + 1)
            copy(self.array[rows], self.wire[rows])
        return self.wire

    def from_wire(self) -> Any:
        """The array, with what was received."""
        copy(self.wire, self.array)
        return self.array
