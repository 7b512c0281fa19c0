"""CUDA C for CuPy arrays: a .cu file is compiled once per process and real type, by CuPy's RawModule."""

import functools
from pathlib import Path
from typing import Any, Final

THREADS: Final = 256  # per block; a multiple of a warp's 32
BLOCKS: Final = 4096  # at most; every kernel strides over what is left
C_NAMES: Final = {"float32": "float", "float64": "double"}


def options(dtype: str) -> tuple[str, ...]:
    """The compiler options for arrays of `dtype`: REAL is its name in C.

    Products are rounded before they are added, as on the CPU, so that both sides agree to the bit; all these kernels
    wait for memory, not for arithmetic.
    """
    return "--std=c++17", "--fmad=false", f"-DREAL={C_NAMES[dtype]}"


@functools.cache
def module(path: Path, dtype: str) -> Any:
    """The kernels of a .cu file for one real type."""
    import cupy

    module = cupy.RawModule(code=path.read_text(), options=options(dtype))
    module.compile()
    return module


def launch(path: Path, name: str, dtype: Any, size: int, *arguments: Any) -> None:
    """Start the kernel `name` with a thread for each of `size` things, in the current stream.

    Arguments are arrays of the device and NumPy scalars, each of the type that the kernel declares.
    """
    blocks = min(-(-size // THREADS), BLOCKS)
    module(path, str(dtype)).get_function(name)((blocks,), (THREADS,), arguments)
