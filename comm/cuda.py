"""CUDA C for CuPy arrays: a .cu file is compiled once per process and real type, by CuPy's RawModule."""

import functools
from pathlib import Path
from typing import Any, Final

THREADS: Final = 256  # per block; a multiple of a warp's 32, at most 1024
BLOCKS: Final = 4096  # at most, of all rows; every kernel strides over what is left
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


def blocks(threads: int, rows: int = 1) -> int:
    """How many blocks a row has where so many threads of it have work."""
    return min(-(-threads // THREADS), max(1, BLOCKS // rows))


def launch(path: Path, name: str, dtype: Any, threads: int, *arguments: Any, rows: int = 1) -> None:
    """Start the kernel `name` in the current stream, with so many threads in each of `rows` rows of blocks.

    Arguments are arrays of the device and NumPy scalars, each of the type that the kernel declares.
    """
    grid = blocks(threads, rows), rows
    module(path, str(dtype)).get_function(name)(grid, (THREADS,), arguments)
