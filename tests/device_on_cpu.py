"""A stand-in for CuPy where there is no GPU: arrays that live on the CPU and are kept apart from NumPy's as those of a
device are. What CuPy refuses, or would answer by a copy behind one's back, is a TypeError: a NumPy array among device
arrays, a device array taken for a NumPy one. Kernels run by `cuda_on_cpu`.

It checks a program's path on a device, not CuPy, nor what a kernel does on real hardware.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest

from outpace.comm import cuda, vectors


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    """A device array; `host` is its memory."""

    def __init__(self, host: np.ndarray) -> None:
        self.host = host

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("implicit conversion of a device array to NumPy; use get()")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return _on_device(getattr(ufunc, method))(*inputs, **kwargs)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.host, name)
        return _on_device(found) if callable(found) else _to_device(found)

    def __getitem__(self, index: Any) -> "DeviceArray":  # CuPy takes NumPy's arrays as indices
        return _to_device(self.host[_host(index, strict=False)])  # type: ignore[no-any-return]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.host[_host(index, strict=False)] = _host(value)

    def __len__(self) -> int:
        return len(self.host)

    def __iter__(self) -> Any:
        return map(_to_device, self.host)

    def __float__(self) -> float:
        return float(self.host)

    def __int__(self) -> int:
        return int(self.host)

    def __bool__(self) -> bool:
        return bool(self.host)

    def get(self, out: np.ndarray | None = None) -> np.ndarray:
        if out is None:
            return self.host.copy()
        assert out.flags.c_contiguous
        out[...] = self.host
        return out

    def set(self, host: np.ndarray) -> None:
        assert type(host) is np.ndarray
        assert host.shape == self.host.shape
        assert host.dtype == self.host.dtype
        self.host[...] = host


def _to_device(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return DeviceArray(np.asanyarray(value))
    return tuple(map(_to_device, value)) if isinstance(value, tuple) else value


def _host(value: Any, strict: bool = True) -> Any:
    if isinstance(value, DeviceArray):
        return value.host
    if strict and isinstance(value, np.ndarray):
        raise TypeError("a NumPy array among device arrays")
    return type(value)(_host(each, strict) for each in value) if isinstance(value, tuple | list) else value


def _on_device(function: Callable[..., Any], strict: bool = True) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        hosts = [_host(each, strict) for each in args]
        return _to_device(function(*hosts, **{name: _host(each, strict) for name, each in kwargs.items()}))

    return call


class Cupy(ModuleType):
    """NumPy's functions, for device arrays."""

    def __init__(self) -> None:
        super().__init__("cupy")
        self.ndarray = DeviceArray
        stream, device = SimpleNamespace(synchronize=lambda: None), SimpleNamespace(use=lambda: None)
        self.linalg = SimpleNamespace(qr=_on_device(np.linalg.qr))
        self.cuda = SimpleNamespace(is_available=lambda: True, get_current_stream=lambda: stream, Device=lambda: device)

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found):
            return found
        return _on_device(found, strict=name not in ("asarray", "array"))


def install(patch: pytest.MonkeyPatch, folder: Path) -> ModuleType:
    """Put this in the place of CuPy; `folder` takes the compiled kernels. Needs a C++ compiler."""
    cupy, cupyx = Cupy(), ModuleType("cupyx")
    cupyx.empty_like_pinned = lambda x: np.empty_like(x.host)  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "cupy", cupy)
    patch.setitem(sys.modules, "cupyx", cupyx)
    compiled = cuda_on_cpu.modules(folder)

    def module(path: Path, dtype: str) -> Any:
        def get_function(name: str) -> Callable[..., None]:
            run = compiled(path, dtype).get_function(name)
            return lambda grid, block, arguments: run(grid, block, tuple(map(_host, arguments)))

        return SimpleNamespace(get_function=get_function)

    def elementwise(*texts: str, options: tuple[str, ...]) -> Callable[..., None]:
        assert "--fmad=false" in options
        run = cuda_on_cpu.Elementwise(folder, *texts)
        return lambda *arguments: run(*map(_host, arguments))

    cupy.ElementwiseKernel = elementwise
    patch.setattr(vectors, "kernel", functools.cache(vectors.kernel.__wrapped__))  # those of one test are of its folder
    patch.setattr(cuda, "module", module)
    patch.setattr(cuda, "THREADS", 32)
    patch.setattr(cuda, "BLOCKS", 2)  # so that threads have to stride
    return cupy
