"""A stand-in for CuPy where there is no GPU: arrays that live on the CPU and are kept apart from NumPy's as those of a
device are, and a device that does things when it has to and not before.

What CuPy refuses, or would answer by a copy behind one's back, is a TypeError: a NumPy array among device arrays, a
device array taken for a NumPy one. Kernels run by `cuda_on_cpu`.

Whatever is launched waits in the queue of the calling thread's stream until the host waits for that stream, or for an
event behind it. So a forgotten wait shows: MPI sends what was there before, every time. Results that are not yet
computed are NaN. Two operations on the same memory, one of which writes it, in streams that no event has put in order
are noted in `races`. An operation may take time, as `spend` does: whoever waits for it waits so long.

It checks a program's path on a device, not CuPy, nor what a kernel does on real hardware.
"""

import functools
import linecache
import re
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest
from mpi4py import MPI

from outpace.comm import arrays, cuda, vectors

SIZED_BY_DATA = ("flatnonzero", "nonzero", "unique")  # whose results' size the host has to wait for
IN_PLACE = ("copyto", "fill", "sort", "partition", "put")  # what writes its first argument


@dataclass
class Operation:
    """What was launched: it reads and writes memory of the host, and comes after so many operations of other queues."""

    number: int
    run: Callable[[], Any]
    reads: list[np.ndarray]
    writes: list[np.ndarray]
    after: dict["Queue", int]

    def conflicts(self, other: "Operation") -> bool:
        mine, theirs = (self.writes, other.reads + other.writes), (self.reads, other.writes)
        return any(np.may_share_memory(a, b) for ours, others in (mine, theirs) for a in ours for b in others)


@dataclass(eq=False)
class Queue:
    """The operations of a stream that are not yet done."""

    waiting: deque[Operation] = field(default_factory=deque)
    launched: int = 0
    after: dict["Queue", int] = field(default_factory=dict)  # what the next one comes after
    busy_until: float = 0.0


class Device:
    """The queues, and what has been done with them. `counted` has the number of operations, of waits of the host and of
    uploads of host arrays; `sites` has what waited or put something in order, and from where in the sources it was
    called; what stands in `dropped` is left out. `handed` has the lines that handed device arrays to MPI."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.queues: list[Queue] = []
        self.races: list[str] = []
        self.counted: Counter[str] = Counter()
        self.sites: set[str] = set()
        self.dropped: set[str] = set()
        self.handed: set[str] = set()
        self.compiled: set[tuple[Any, ...]] = set()  # kernels, by their names and types, in use so far
        self.pinned: list[np.ndarray] = []
        self.null = Stream(self)
        self.local = threading.local()

    def launch(
        self,
        run: Callable[[], Any],
        reads: Sequence[np.ndarray] = (),
        writes: Sequence[np.ndarray] = (),
        seconds: float = 0.0,
        kernel: str = "",
        queue: Queue | None = None,
    ) -> None:
        """Put an operation into a queue, as a rule that of this thread's stream."""
        queue = queue or self.current.queue
        with self.lock:
            queue.launched += 1
            queue.busy_until = max(queue.busy_until, time.monotonic()) + seconds
            operation = Operation(queue.launched, run, list(reads), list(writes), dict(queue.after))
            for other in self.queues:
                if other is not queue:
                    ordered = queue.after.get(other, 0)
                    if any(before.number > ordered and operation.conflicts(before) for before in other.waiting):
                        self.races.append(f"{threading.current_thread().name}: {kernel}")
            queue.waiting.append(operation)
            self.counted["kernels" if kernel else "copies"] += 1
            if kernel:
                self.compiled.add((kernel, *(str(a.dtype) for a in (*reads, *writes))))

    def wait(self, marks: dict[Queue, int], until: float) -> None:
        """Have the host wait for what was launched up to these numbers, which takes until then."""
        time.sleep(max(0.0, until - time.monotonic()))
        self.counted["waits"] += 1
        with self.lock:
            self.complete(marks)

    def complete(self, marks: dict[Queue, int]) -> None:
        for queue, number in marks.items():
            while queue.waiting and queue.waiting[0].number <= number:
                self.complete(queue.waiting[0].after)
                with np.errstate(all="ignore"):
                    queue.waiting.popleft().run()

    @property
    def current(self) -> "Stream":
        return getattr(self.local, "stream", self.null)

    def skips(self) -> bool:
        """Whether what called this is to be left out, where it was called from: outside of `arrays`, that is."""
        frame: Any = sys._getframe(1)
        site = frame.f_code.co_name
        frame = frame.f_back
        while frame.f_code.co_filename in (arrays.__file__, __file__):
            site, frame = f"{frame.f_code.co_name} {site}", frame.f_back
        site = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {site}"
        self.sites.add(site)
        return site in self.dropped


class Event:
    """cupy.cuda.Event. One that was never recorded is over."""

    def __init__(self, device: Device, block: bool = False, disable_timing: bool = False) -> None:
        self._device, self._timed = device, not disable_timing
        self.marks: dict[Queue, int] = {}
        self.at = 0.0

    def record(self, stream: "Stream | None" = None) -> None:
        if not self._device.skips():
            (stream or self._device.current).mark(self)

    def synchronize(self) -> None:
        if not self._device.skips():
            self._device.wait(self.marks, self.at)

    @property
    def done(self) -> bool:
        if self.at > time.monotonic():
            return False
        with self._device.lock:
            self._device.complete(self.marks)
        return True

    def since(self, start: "Event") -> float:
        """Milliseconds, as of cupy.cuda.get_elapsed_time."""
        assert self._timed
        assert start._timed
        assert not any(queue.waiting and queue.waiting[0].number <= n for queue, n in self.marks.items()), "not over"
        return 1e3 * (self.at - start.at)


class Stream:
    """cupy.cuda.Stream. One that is not `non_blocking` is as good as the null stream, in whose turn it works."""

    def __init__(self, device: Device, non_blocking: bool = False) -> None:
        self._device = device
        self.queue = Queue() if non_blocking or not device.queues else device.queues[0]
        if self.queue not in device.queues:
            device.queues.append(self.queue)
        self.ptr = id(self.queue)

    def use(self) -> "Stream":
        self._device.local.stream = self
        return self

    def __enter__(self) -> "Stream":
        self._before = self._device.current
        return self.use()

    def __exit__(self, *error: Any) -> None:
        self._before.use()

    def mark(self, event: Event) -> None:
        with self._device.lock:
            event.marks = {**self.queue.after, self.queue: self.queue.launched}
            event.at = max(self.queue.busy_until, time.monotonic())

    def record(self, event: Event | None = None) -> Event:
        event = event or Event(self._device)
        if not self._device.skips():
            self.mark(event)
        return event

    def wait_event(self, event: Event) -> None:
        if not self._device.skips():
            with self._device.lock:
                for queue, number in event.marks.items():
                    self.queue.after[queue] = max(number, self.queue.after.get(queue, 0))
                self.queue.busy_until = max(self.queue.busy_until, event.at)

    def synchronize(self) -> None:
        if not self._device.skips():
            self.finish()

    def finish(self) -> None:
        self._device.wait({**self.queue.after, self.queue: self.queue.launched}, self.queue.busy_until)


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    """A device array; `host` is its memory."""

    def __init__(self, device: Device, host: np.ndarray) -> None:
        self.device, self.host = device, host

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("implicit conversion of a device array to NumPy; use get()")

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """What an MPI that reads device memory sees."""
        frame = sys._getframe(1)
        self.device.handed.add(linecache.getline(frame.f_code.co_filename, frame.f_lineno))
        return {**self.host.__array_interface__, "version": 3, "stream": None}

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return _call(self.device, ufunc.__name__, getattr(ufunc, method), inputs, kwargs)

    @property
    def data(self) -> SimpleNamespace:
        return SimpleNamespace(ptr=self.host.ctypes.data)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self.host, name)
        if not callable(found):
            return _to_device(self.device, found)
        method = getattr(np.ndarray, name)
        return lambda *args, **kwargs: _call(self.device, name, method, (self, *args), kwargs)

    def __getitem__(self, index: Any) -> "DeviceArray":
        index = _uploaded(index)
        return _call(self.device, "take", np.ndarray.__getitem__, (self, index), {}, strict=False)  # type: ignore[no-any-return]

    def __setitem__(self, index: Any, value: Any) -> None:
        value = value if isinstance(value, DeviceArray) else np.array(_host(value))
        place, new = _host(_uploaded(index), strict=False), _host(value, strict=False)
        reads = [each for each in (*_arrays(place), new) if isinstance(each, np.ndarray)]
        self.device.launch(
            lambda: self.host.__setitem__(place, new),
            reads,
            [self.host[place] if _basic(place) else self.host],
            kernel="put",
        )

    def __len__(self) -> int:
        return len(self.host)

    def __iter__(self) -> Iterator["DeviceArray"]:
        return (DeviceArray(self.device, self.host[i, ...]) for i in range(len(self.host)))

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __bool__(self) -> bool:
        return bool(self.get())

    def get(self, out: np.ndarray | None = None, blocking: bool = True) -> np.ndarray:
        target = np.empty_like(self.host) if out is None else out
        assert target.flags.c_contiguous
        self.device.launch(lambda: np.copyto(target, self.host), [self.host], [target])
        pinned = any(np.may_share_memory(target, each) for each in self.device.pinned)
        if (blocking or not pinned) and not self.device.skips():
            self.device.current.finish()
        return target

    def set(self, host: np.ndarray) -> None:
        assert type(host) is np.ndarray
        assert host.shape == self.host.shape
        assert host.dtype == self.host.dtype
        self.device.counted["uploads"] += 1
        if not any(np.may_share_memory(host, each) for each in self.device.pinned):
            host = host.copy()  # pageable memory is read before the call returns
        self.device.launch(lambda: np.copyto(self.host, host), [host], [self.host])


def _uploaded(index: Any) -> Any:
    """CuPy takes NumPy's arrays as indices: it uploads them before the call returns."""
    return index.copy() if isinstance(index, np.ndarray) else index


def _basic(index: Any) -> bool:
    """Whether an index makes a view."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(isinstance(part, int | slice | np.integer) or part is None or part is ... for part in parts)


def _arrays(value: Any) -> list[np.ndarray]:
    if isinstance(value, tuple | list):
        return [array for each in value for array in _arrays(each)]
    return [value] if isinstance(value, np.ndarray) else []


def _to_device(device: Device, value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return DeviceArray(device, np.asanyarray(value))
    return tuple(_to_device(device, each) for each in value) if isinstance(value, tuple) else value


def _host(value: Any, strict: bool = True) -> Any:
    if isinstance(value, DeviceArray):
        return value.host
    if isinstance(value, np.ndarray):
        if strict:
            raise TypeError("a NumPy array among device arrays")
        return value.copy()  # uploaded as it is now
    return type(value)(_host(each, strict) for each in value) if isinstance(value, tuple | list) else value


def _call(
    device: Device, name: str, function: Callable[..., Any], args: Any, kwargs: dict[str, Any], strict: bool = True
) -> Any:
    """Launch a function of NumPy on device arrays; its result, which is there later, or a view."""
    hosts = [_host(each, strict) for each in args]
    named = {key: _host(each, strict) for key, each in kwargs.items()}
    device.counted["uploads"] += sum(isinstance(each, np.ndarray) for each in args)
    reads = [] if name.endswith("_like") else _arrays(hosts)
    if name in IN_PLACE:
        device.launch(lambda: function(*hosts, **named), reads[1:], reads[:1], kernel=name)
        return None
    if (out := named.get("out")) is not None:
        device.launch(
            lambda: function(*hosts, **named), reads, _arrays(out if isinstance(out, tuple) else (out,)), kernel=name
        )
        return kwargs["out"][0] if isinstance(kwargs["out"], tuple) else kwargs["out"]
    if name in SIZED_BY_DATA or (name == "take" and any(each.dtype == bool for each in reads[1:])):
        device.current.finish()
        return _to_device(device, function(*hosts, **named))
    with np.errstate(all="ignore"):
        result = function(*hosts, **named)  # of what is there now: right in its shape and its type alone
    if _is_view(result, args):
        return _to_device(device, result)
    results = result if isinstance(result, tuple) else (result,)
    if not all(isinstance(each, np.ndarray | np.generic) for each in results):
        return result
    values = [np.array(each) for each in results]
    for each in values:
        each.fill(np.nan if each.dtype.kind == "f" else 0)
    if not name.startswith("empty"):

        def run() -> None:
            again = function(*hosts, **named)
            for value, new in zip(values, again if isinstance(again, tuple) else (again,), strict=True):
                value[...] = new

        device.launch(run, reads, values, kernel=name)
    devices = tuple(DeviceArray(device, each) for each in values)
    return devices if isinstance(result, tuple) else devices[0]


def _is_view(result: Any, args: Any) -> bool:
    return isinstance(result, np.ndarray) and any(
        isinstance(each, DeviceArray) and np.may_share_memory(result, each.host) for each in args
    )


class Cupy(ModuleType):
    """NumPy's functions, for device arrays; `device` is what does them. `gpus` devices are in sight."""

    def __init__(self, gpus: int = 1) -> None:
        super().__init__("cupy")
        device = self.device = Device()
        self.ndarray = DeviceArray
        self.__version__ = "0"
        self.linalg = SimpleNamespace(qr=lambda *a, **k: _call(device, "qr", np.linalg.qr, a, k))
        used = threading.local()

        class Gpu:
            """cupy.cuda.Device; without a number the one that this thread uses."""

            def __init__(self, number: int | None = None) -> None:
                self.id = getattr(used, "id", 0) if number is None else number

            def use(self) -> None:
                used.id = self.id

        self.cuda = SimpleNamespace(
            is_available=lambda: True,
            get_current_stream=lambda: device.current,
            get_elapsed_time=lambda start, end: end.since(start),
            Device=Gpu,
            Stream=lambda **options: Stream(device, **options),
            Event=lambda **options: Event(device, **options),
            nccl=SimpleNamespace(available=False),  # but see `nccl_on_cpu`
            runtime=SimpleNamespace(
                getDeviceCount=lambda: gpus,
                getDeviceProperties=lambda number: {"name": b"a CPU that plays one", "uuid": bytes([number + 1])},
                deviceGetPCIBusId=lambda number: f"0000:{number:02x}:00.0",
            ),
        )

    def spend(self, seconds: float) -> None:
        """A kernel that takes so long."""
        self.device.launch(lambda: None, seconds=seconds, kernel="spend")

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found):
            return found
        strict = name not in ("asarray", "array")
        return lambda *args, **kwargs: _call(self.device, name, found, args, kwargs, strict)


def install(patch: pytest.MonkeyPatch, folder: Path, gpus: int = 1) -> Cupy:
    """Put this in the place of CuPy; `folder` takes the compiled kernels, which need a C++ compiler."""
    cupy, cupyx = Cupy(gpus), ModuleType("cupyx")
    device = cupy.device

    def empty_like_pinned(x: DeviceArray) -> np.ndarray:
        device.pinned.append(np.empty_like(x.host))
        return device.pinned[-1]

    cupyx.empty_like_pinned = empty_like_pinned  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "cupy", cupy)
    patch.setitem(sys.modules, "cupy.cuda", cupy.cuda)
    patch.setitem(sys.modules, "cupyx", cupyx)
    compiled = cuda_on_cpu.modules(folder)

    def module(path: Path, dtype: str) -> Any:
        def get_function(name: str) -> Callable[..., None]:
            def launch(grid: Any, block: Any, arguments: tuple[Any, ...]) -> None:
                run, hosts = compiled(path, dtype).get_function(name), tuple(map(_host, arguments))
                device.launch(lambda: run(grid, block, hosts), [], _arrays(hosts), kernel=name)

            return launch

        return SimpleNamespace(get_function=get_function)

    def elementwise(taken: str, given: str, operation: str, name: str, options: tuple[str, ...]) -> Callable[..., None]:
        assert "--fmad=false" in options
        run = cuda_on_cpu.Elementwise(folder, taken, given, operation, name)
        names = [each.split()[-1] for each in f"{taken}, {given}".split(", ")]
        read = {each for each in names if re.search(rf"=[^;]*\b{each}\b", operation)}

        def launch(*arguments: Any) -> None:
            hosts = tuple(map(_host, arguments))
            reads = [each for known, each in zip(names, hosts, strict=True) if known in read]
            device.launch(lambda: run(*hosts), _arrays(reads), list(hosts[-len(given.split(", ")) :]), kernel=name)

        return launch

    cupy.ElementwiseKernel = elementwise
    patch.setattr(vectors, "kernel", functools.cache(vectors.kernel.__wrapped__))  # those of one test are of its folder
    patch.setattr(cuda, "module", module)
    patch.setattr(cuda, "THREADS", 32)
    patch.setattr(cuda, "BLOCKS", 2)  # so that threads have to stride
    return cupy


def hold_without_any_wait(
    comm: MPI.Intracomm, cupy: Cupy, scenario: Callable[[], bool], but: str = "nothing", of: str = ""
) -> None:
    """The scenario comes out right, and does not where any one of its waits and orders is left out, `but` those and
    its own; only those `of` a file where one is named."""
    device = cupy.device
    assert comm.allreduce(scenario(), MPI.LAND)
    assert not device.races
    everywhere = set().union(*comm.allgather(device.sites))
    own = {site for site in everywhere if site.startswith("test_") and site.count(" ") == 1}
    sites = sorted(site for site in everywhere - own if but not in site and site.startswith(of))
    assert sites
    for site in sites:
        device.dropped = {site}
        right = scenario() and not device.races
        device.dropped = set()
        for queue in device.queues:
            device.complete({queue: queue.launched})
        device.races.clear()
        assert not comm.allreduce(right, MPI.LAND), f"without {site} nothing is wrong"
