"""Rates of the bus between host and device by events, from and to pinned and other memory: medians of ten copies."""

import statistics
from collections.abc import Callable
from typing import Any

import cupy
import cupyx
import numpy as np

DIM = 1 << 26  # float32: 268 MB


def gigabytes_per_second(copy: Callable[[], Any]) -> float:
    begin, end, rates = cupy.cuda.Event(), cupy.cuda.Event(), []
    for _ in range(11):
        begin.record()
        copy()
        end.record()
        end.synchronize()
        rates.append(4 * DIM / 1e6 / cupy.cuda.get_elapsed_time(begin, end))
    return statistics.median(rates[1:])


device = cupy.zeros(DIM, dtype=np.float32)
print(cupy.cuda.runtime.getDeviceProperties(device.device.id)["name"].decode())
for kind, host in (("pinned", cupyx.zeros_pinned(DIM, dtype=np.float32)), ("pageable", np.zeros(DIM, np.float32))):
    print(f"device to host, {kind:8} {gigabytes_per_second(lambda host=host: device.get(out=host)):6.1f} GB/s")
    print(f"host to device, {kind:8} {gigabytes_per_second(lambda host=host: device.set(host)):6.1f} GB/s")
