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


class Elementwise:
    """A kernel on NumPy arrays, as cupy.ElementwiseKernel makes it of the same text."""

    def __init__(self, folder: Path, in_params: str, out_params: str, operation: str, name: str) -> None:
        self._parameters = [each.rsplit(maxsplit=1) for each in f"{in_params}, {out_params}".split(", ")]
        self._library, self._operation = folder / name, operation

    def __call__(self, *arguments: Any) -> None:
        size, dtype = arguments[-1].size, arguments[-1].dtype
        declared = [kind for kind, _ in self._parameters]
        kinds = [kind if hasattr(each, "size") else "number" for kind, each in zip(declared, arguments, strict=True)]
        given = []
        for kind, each in zip(kinds, arguments, strict=True):
            if kind == "number":
                given.append(np.ctypeslib.as_ctypes_type(dtype)(each))
                continue
            assert each.dtype == dtype
            assert kind == "raw T" or each.shape == (size,)
            given += [_c(each), ctypes.c_ssize_t(each.size)]
        self._function(kinds, str(dtype))(ctypes.c_ssize_t(size), *given)

    def _function(self, kinds: list[str], dtype: str) -> Any:
        library = self._library.with_suffix(f".{dtype}.so")
        if not library.exists():
            parameters = ["ptrdiff_t size"]
            raw, coordinates = [], []
            for kind, (_, name) in zip(kinds, self._parameters, strict=True):
                parameters.append(f"T {name}" if kind == "number" else f"T *{name}_data, ptrdiff_t {name}_size")
                raw += [f"Raw {name}{{{name}_data, {name}_size}};"] if kind == "raw T" else []
                coordinates += [f"[[maybe_unused]] T &{name} = {name}_data[i];"] if kind == "T" else []
            code = f"""
#include <cmath>
#include <cstddef>
using std::sqrt;
using T = {cuda.C_NAMES[dtype]};
struct Raw {{
    T *data; ptrdiff_t n;
    T &operator[](ptrdiff_t i) const {{ return data[i]; }}
    ptrdiff_t size() const {{ return n; }}
}};
struct Index {{ ptrdiff_t n; ptrdiff_t size() const {{ return n; }} }};
extern "C" void run({", ".join(parameters)}) {{
    [[maybe_unused]] Index _ind{{size}};
    {" ".join(raw)}
    for (ptrdiff_t i = 0; i < size; ++i) {{ {" ".join(coordinates)}
{self._operation}
    }}
}}
"""
            flags = ["-std=c++20", "-O1", "-Wall", "-Werror", "-ffp-contract=off", "-shared", "-fPIC", "-x", "c++", "-"]
            subprocess.run([str(COMPILER), *flags, "-o", str(library)], input=code, text=True, check=True)
        return ctypes.CDLL(str(library)).run


def _c(argument: Any) -> Any:
    if isinstance(argument, np.ndarray):
        assert argument.flags.c_contiguous, "a kernel sees memory, not strides"
        return ctypes.c_void_p(argument.ctypes.data)
    return np.ctypeslib.as_ctypes_type(argument.dtype)(argument.item())


def modules(folder: Path) -> Callable[[Path, str], Module]:
    """Takes the place of cuda.module."""
    return functools.cache(lambda path, dtype: Module(path, dtype, folder))
