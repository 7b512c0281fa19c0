"""The fused kernels of the gradients against plain NumPy: on the CPU, on a GPU, and the CUDA file run on the CPU."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest
from harness import shares
from mpi4py import MPI

from outpace.benchmarks import problems
from outpace.benchmarks.problems import Setting, layers, layers_gpu
from outpace.comm import arrays, cuda


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(params=["emulated", "strided", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, folder: Path) -> Iterator[Any]:
    """The array module of the fused kernels' arrays."""
    if request.param == "gpu":
        if arrays.no_device():
            pytest.skip(f"this process {arrays.no_device()}")
        import cupy

        yield cupy
    elif cuda_on_cpu.COMPILER is None:
        pytest.skip("no C++ compiler to run the CUDA file on the CPU")
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cuda, "module", cuda_on_cpu.modules(folder))
            if request.param == "strided":  # few threads, no power of two; else those of a device
                patch.setattr(cuda, "THREADS", 96)
                patch.setattr(cuda, "BLOCKS", 2)
            yield np


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [1, 16, 131])
def test_kernels_equal_their_twins(device: Any, rows: int, dtype: str) -> None:
    rng = np.random.default_rng(rows)
    h, dh, b = (rng.standard_normal(shape).astype(dtype) for shape in ((rows, 10), (rows, 10), 10))
    h[0, 3], z, y = -b[3], 100 * h, rng.integers(10, size=rows)
    tolerance = {"float32": 1e-6, "float64": 1e-14}[dtype]
    for name, arguments in (("bias_relu", (h, b)), ("relu_backward", (dh, h)), ("softmax_cross_entropy", (z, b, y))):
        theirs = [device.asarray(argument.copy()) for argument in arguments]
        getattr(layers_gpu, name)(*theirs)
        getattr(layers, name)(*arguments)
        np.testing.assert_allclose(arrays.to_host(theirs[0]), arguments[0], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("hidden", [0, 5])
def test_gradients_are_the_same(device: Any, hidden: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole gradient, with the fused kernels in place of NumPy's."""
    (share,) = shares(f"digits:hidden={hidden}", 1)
    x = np.random.default_rng(1).standard_normal(share.dim)
    expected = np.empty_like(x)
    batch = np.arange(0, share.n_samples, 7)
    share.gradient(x, batch, expected)
    if device is np:
        monkeypatch.setattr(share, "_fused", layers_gpu)
    else:
        setting = Setting(MPI.COMM_SELF, [0], 1, "iid", 0, "float64", device)
        (share,) = problems.build(f"digits:hidden={hidden}", setting)
    g = device.empty_like(share.x0())
    share.gradient(device.asarray(x), batch, g)
    np.testing.assert_allclose(arrays.to_host(g), expected, rtol=0, atol=1e-14 if device is np else 1e-12)
