"""Runs the kernels of a .cu file on the CPU, on NumPy arrays, through a C++ compiler: a check of their logic without
a GPU. Stands in for a compiled CuPy module."""

import ctypes
import functools
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from outpace.comm import cuda

COMPILER = shutil.which("g++")
KERNEL = re.compile(r'extern "C" __global__ void (\w+)\((.*?)\)\s*\{', re.DOTALL)


class Module:
    """`get_function(name)(grid, block, arguments)` as that of cupy.RawModule."""

    def __init__(self, source: Path, dtype: str, folder: Path) -> None:
        text = f'#include "{Path(__file__).with_suffix(".h")}"\n{source.read_text()}\n'
        for name, parameters in KERNEL.findall(text):
            names = ", ".join(parameter.split()[-1].lstrip("*") for parameter in parameters.split(","))
            text += f'extern "C" void run_{name}(int blocks, int threads, {parameters}) '
            text += f"{{ simulate(blocks, threads, [=] {{ {name}({names}); }}); }}\n"
        code, library = folder / f"{source.stem}-{dtype}.cpp", folder / f"{source.stem}-{dtype}.so"
        code.write_text(text)
        flags = ["-std=c++20", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-pthread"]
        flags += ["-Wno-unknown-pragmas", f"-DREAL={cuda.C_NAMES[dtype]}"]
        subprocess.run([str(COMPILER), *flags, "-o", str(library), str(code)], check=True)
        self._library = ctypes.CDLL(str(library))

    def get_function(self, name: str) -> Callable[..., None]:
        run = self._library[f"run_{name}"]

        def call(grid: tuple[int], block: tuple[int], arguments: tuple[Any, ...]) -> None:
            run(ctypes.c_int(*grid), ctypes.c_int(*block), *map(_c, arguments))

        return call


def _c(argument: Any) -> Any:
    if isinstance(argument, np.ndarray):
        assert argument.flags.c_contiguous, "a kernel sees memory, not strides"
        return ctypes.c_void_p(argument.ctypes.data)
    return np.ctypeslib.as_ctypes_type(argument.dtype)(argument.item())


def modules(folder: Path) -> Callable[[Path, str], Module]:
    """Takes the place of cuda.module."""
    return functools.cache(lambda path, dtype: Module(path, dtype, folder))
