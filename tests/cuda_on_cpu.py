"""Runs the kernels of a .cu file on the CPU, on NumPy arrays, through a C++ compiler: a check of their logic without
a GPU. Stands in for a compiled CuPy module.

A `Module` is a library in this process. A `SanitizedModule` is a program of its own, built with a sanitizer of the
compiler: slower, and it sees a missing barrier or an access past an array's end even where the numbers are right.
"""

import ctypes
import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from outpace.comm import cuda

COMPILER = shutil.which("g++")
HEADER = Path(__file__).with_suffix(".h")
KERNEL = re.compile(r'extern "C" __global__ void (\w+)\((.*?)\)\s*\{', re.DOTALL)
DTYPES = {
    **{"word": "uint32", "unsigned short": "uint16", "index": "int64", "int": "int32", "signed char": "int8"},
    "double": "float64",
}
FLAGS = ("-std=c++20", "-O1", "-ffp-contract=off", "-fPIC", "-Wno-unknown-pragmas")
SANITIZERS = {
    each: ("-O0", f"-fsanitize={each},undefined", "-fno-sanitize-recover=undefined") for each in ("thread", "address")
}

QUIET = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}  # a kernel's arrays are freed by the end of its program


class Parameter(NamedTuple):
    text: str  # as declared
    name: str
    is_array: bool
    dtype: str


def kernels(source: str, dtype: str) -> Iterator[tuple[str, list[Parameter]]]:
    """The kernels of a .cu file and what they take; REAL is `dtype`."""
    for name, declared in KERNEL.findall(source):
        parameters = []
        for text in map(str.strip, declared.split(",")):
            *kind, own = text.replace("*", " * ").split()
            plain = " ".join(word for word in kind if word not in ("const", "*", "__restrict__"))
            parameters.append(Parameter(text, own, "*" in kind, (DTYPES | {"REAL": dtype})[plain]))
        yield name, parameters


def check(name: str, parameters: list[Parameter], arguments: tuple[Any, ...]) -> None:
    """Raise TypeError unless the arguments are what the kernel declares; a device would take their bytes for it."""
    if len(arguments) != len(parameters):
        raise TypeError(f"kernel {name}: {len(arguments)} arguments for {len(parameters)} parameters")
    for parameter, argument in zip(parameters, arguments, strict=True):
        kind = np.ndarray if parameter.is_array else np.generic
        if not isinstance(argument, kind) or argument.dtype != parameter.dtype:
            given = f"{type(argument).__name__} {getattr(argument, 'dtype', '')}".rstrip()
            raise TypeError(f"kernel {name}: {given} for {parameter.text}, which is {parameter.dtype}")
        if parameter.is_array and not argument.flags.c_contiguous:
            raise TypeError(f"kernel {name}: {parameter.name} has strides, and a kernel sees memory")


class Module:
    """`get_function(name)(grid, block, arguments)` as that of cupy.RawModule; RuntimeError where a barrier or a vote
    does not have all its threads."""

    def __init__(self, source: str, dtype: str, library: Path) -> None:
        self._kernels = dict(kernels(source, dtype))
        text = f'#include "{HEADER}"\n#line 1\n{source}\n'
        for name, parameters in self._kernels.items():
            taken, names = ", ".join(p.text for p in parameters), ", ".join(p.name for p in parameters)
            text += f'extern "C" const char *run_{name}(unsigned grid_x, unsigned grid_y, unsigned block_x, {taken}) '
            text += f"{{ return simulate({{grid_x, grid_y}}, block_x, [=] {{ {name}({names}); }}); }}\n"
        self._build(text, dtype, library)

    def _build(self, text: str, dtype: str, library: Path) -> None:
        _compile(text, dtype, library, "-shared")
        self._library = ctypes.CDLL(str(library))

    def get_function(self, name: str) -> Callable[..., None]:
        def call(grid: tuple[int, ...], block: tuple[int], arguments: tuple[Any, ...]) -> None:
            check(name, self._kernels[name], arguments)
            x, y = (*grid, 1)[:2]
            if fault := self._run(name, (x, y, *block), arguments):
                raise RuntimeError(f"kernel {name}: {fault}")

        return call

    def _run(self, name: str, geometry: tuple[int, ...], arguments: tuple[Any, ...]) -> str:
        run = self._library[f"run_{name}"]
        run.restype = ctypes.c_char_p
        fault = run(*map(ctypes.c_uint, geometry), *map(_c, arguments))
        return fault.decode() if fault else ""


class SanitizedModule(Module):
    """The same, built with a sanitizer, whose report is the error."""

    def __init__(self, source: str, dtype: str, program: Path, sanitizer: str) -> None:
        self._sanitizer = sanitizer
        super().__init__(source, dtype, program)

    def _build(self, text: str, dtype: str, program: Path) -> None:
        text += f'#include "{HEADER.with_name("cuda_program.h")}"\nint main(int, char **argv) {{\n'
        for name, parameters in self._kernels.items():
            taken, names = "; ".join(f"{p.text} = Taken()" for p in parameters), ", ".join(p.name for p in parameters)
            text += f'if (argv[1] == std::string("{name}")) {{ {taken}; '
            text += f"return answer(run_{name}(number(argv[2]), number(argv[3]), number(argv[4]), {names})); }}\n"
        _compile(text + "}\n", dtype, program, *SANITIZERS[self._sanitizer])
        self._program = program

    def _run(self, name: str, geometry: tuple[int, ...], arguments: tuple[Any, ...]) -> str:
        command = [str(self._program), name, *map(str, geometry)]
        sent = b"".join(map(_message, arguments))
        done = subprocess.run(command, input=sent, capture_output=True, env=QUIET)
        if done.returncode:
            return done.stderr.decode()
        start = 0
        for array in (each for each in arguments if isinstance(each, np.ndarray)):
            array[...] = np.frombuffer(done.stdout, array.dtype, array.size, start).reshape(array.shape)
            start += array.nbytes
        return ""


def _message(argument: Any) -> bytes:
    """Length, distance from an address that is a multiple of 16, and bytes."""
    shift = argument.ctypes.data % 16 if isinstance(argument, np.ndarray) else 0
    return np.array([argument.nbytes, shift]).tobytes() + argument.tobytes()


def _compile(text: str, dtype: str, target: Path, *flags: str) -> None:
    code = target.with_suffix(".cpp")
    code.write_text(text)
    real = f"-DREAL={cuda.C_NAMES[dtype]}"
    subprocess.run([str(COMPILER), *FLAGS, *flags, real, "-o", str(target), str(code)], check=True)


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
        return ctypes.c_void_p(argument.ctypes.data)
    return np.ctypeslib.as_ctypes_type(argument.dtype)(argument.item())


@functools.cache
def modules(folder: Path) -> Callable[[Path, str], Module]:
    """Takes the place of cuda.module."""
    return functools.cache(lambda path, dtype: Module(path.read_text(), dtype, folder / f"{path.stem}-{dtype}.so"))


@functools.cache
def missing(sanitizer: str) -> str:
    """Why nothing can be run that is built with -fsanitize=`sanitizer`, or nothing."""
    if COMPILER is None:
        return "no C++ compiler to run CUDA files on the CPU"
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/program"
        build = [COMPILER, *SANITIZERS[sanitizer], "-x", "c++", "-", "-o", program]
        done = subprocess.run(build, input="int main() {}", text=True, capture_output=True)
        if done.returncode == 0:
            done = subprocess.run([program], env=QUIET, text=True, capture_output=True)
    return f"-fsanitize={sanitizer} does not work here: {done.stderr[:200]}" if done.returncode else ""
