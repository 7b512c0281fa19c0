"""How `outpace micro sign` times kernels on a device: here the CPU plays one."""

from pathlib import Path
from typing import Any

import cuda_on_cpu
import device_on_cpu
import numpy as np
import pytest

from outpace.benchmarks import micro_sign
from outpace.benchmarks.machine import twins
from outpace.comm import sign_gpu
from outpace.comm.errors import UserError

pytestmark = pytest.mark.skipif(cuda_on_cpu.COMPILER is None, reason="no C++ compiler to run CUDA files on the CPU")


def test_a_device_times_calls_in_a_row_by_its_own_clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Between two events there are CALLS calls of one kernel, and nothing is allocated, read back or waited for."""
    cupy = device_on_cpu.install(monkeypatch, tmp_path)
    told: list[str] = []

    class Event:
        def record(self) -> None:
            told.append("|")

        def synchronize(self) -> None:
            told.append("wait")

    def telling(what: str, function: Any) -> Any:
        return lambda *args, **kwargs: (told.append(what), function(*args, **kwargs))[1]

    monkeypatch.setattr(cupy.cuda, "Event", Event, raising=False)
    monkeypatch.setattr(cupy.cuda, "get_elapsed_time", lambda begin, end: 40.0, raising=False)  # milliseconds
    for name in ("zeros", "empty", "full", "zeros_like", "empty_like", "array", "asarray"):
        monkeypatch.setattr(cupy, name, telling("allocates", getattr(cupy, name)), raising=False)
    for name in ("get", "set", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(device_on_cpu.DeviceArray, name, telling(name, getattr(device_on_cpu.DeviceArray, name)))
    monkeypatch.setattr(cupy, "copyto", telling("copy", cupy.copyto), raising=False)
    launch = sign_gpu._launch
    monkeypatch.setattr(sign_gpu, "_launch", lambda name, *rest, **more: telling(name, launch)(name, *rest, **more))
    monkeypatch.setattr(twins, "validate", lambda *_: None)
    kernels = micro_sign.kernels(cupy, 1 << 11)
    del told[:]
    times = micro_sign.by_events(cupy, [kernel.call for kernel in kernels], rounds=2)
    assert np.array(times).tolist() == [[0.04 / micro_sign.CALLS] * 2] * len(kernels)
    _, *between = "\n".join(told).split("|")
    spans = [span.split() for span in between[::2]]
    assert len(spans) == 3 * len(kernels)
    for span, kernel in zip(spans, kernels * 3, strict=True):
        parts = {"feedback_ballot": ["feedback", "feedback_scale", "feedback_ballot"], "tally of 8": ["tally"]}
        assert span == parts.get(kernel.name, [kernel.name]) * micro_sign.CALLS
    assert all(wait.split() == ["wait"] for wait in between[1::2])


def test_a_device_that_is_too_small_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cupy = device_on_cpu.install(monkeypatch, tmp_path)

    def zeros(*args: Any, **kwargs: Any) -> None:
        raise MemoryError  # CuPy's own is one

    monkeypatch.setattr(twins, "validate", lambda *_: None)
    monkeypatch.setattr(cupy, "zeros", zeros, raising=False)
    with pytest.raises(UserError, match="GB of memory, and there is less"):
        micro_sign.kernels(cupy, micro_sign.DIMS["cupy"])
