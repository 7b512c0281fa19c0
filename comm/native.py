"""Functions of Python written in C: compiled where they are first used, and kept on disk.

As CuPy does with its kernels. There has to be a C compiler, what CC says or `cc`, and Python's and NumPy's headers.
"""

import functools
import hashlib
import importlib.machinery
import importlib.util
import os
import platform
import shlex
import sysconfig
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

# No product is fused with a sum, so that all forms of a formula agree to the bit.
FLAGS: Final = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fopenmp-simd", "-shared", "-fPIC")
TIMEOUT_S: Final = 60.0
AGAIN_S: Final = 60.0  # from a failure to the next try: ranks of one launch share one
MODULE: Final = """
static PyMethodDef methods[] = {{{{"{name}", (PyCFunction)(void (*)(void))call, METH_FASTCALL, 0}}, {{0}}}};
static struct PyModuleDef definition = {{PyModuleDef_HEAD_INIT, "{name}", 0, -1, methods}};

PyMODINIT_FUNC PyInit_{name}(void)
{{
    import_array();
    return PyModule_Create(&definition);
}}
"""


class Unbuilt(Exception):
    """Why there is no compiled form."""


def function(name: str, code: str) -> Callable[..., Any]:
    """`call` of the C `code`, METH_FASTCALL, as a function of that name. Raises Unbuilt."""
    source = code + MODULE.format(name=name)
    try:
        key = hashlib.sha256("\0".join((source, *_machine())).encode()).hexdigest()[:16]
        path = _folder() / f"{name}-{key}{sysconfig.get_config_var('EXT_SUFFIX')}"
        if not path.exists():
            _compile(source, path)
        loader = importlib.machinery.ExtensionFileLoader(name, str(path))
        spec = importlib.util.spec_from_loader(name, loader)
        assert spec
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except OSError as error:
        raise Unbuilt(f"{error.filename}: {error.strerror}") from None
    except ImportError as error:  # as from a file system whose files may not be executed
        raise Unbuilt(str(error)) from None
    return getattr(module, name)  # type: ignore[no-any-return]


def _compile(source: str, path: Path) -> None:
    """By the first compiler that can, and by one rank: the others wait for it, and where it fails they do not try for
    AGAIN_S. Files are whole or not there, also where no lock keeps ranks apart."""
    import fcntl  # these a rank needs once, when nothing is on the disk yet
    import tempfile

    failures = []
    with (
        open(path.with_name("native.lock"), "w") as lock,
        tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.stem}-") as folder,
    ):
        with suppress(OSError):  # a file system may have no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        failed = path.with_suffix(".failed")
        if failed.exists() and time.time() < failed.stat().st_mtime + AGAIN_S:
            raise Unbuilt(failed.read_text())
        target = Path(folder, path.name)
        for compiler in _compilers():
            if failure := _failure(compiler, source, target):
                failures.append(failure)
            else:
                target.replace(path)
                failed.unlink(missing_ok=True)
                return
        told = target.with_name(failed.name)
        told.write_text("; ".join(failures))
        told.replace(failed)
    raise Unbuilt("; ".join(failures))


def _failure(compiler: str, source: str, target: Path) -> str:
    """Why it has not compiled the source to the target; nothing where it has."""
    import subprocess

    flags = [*FLAGS, f"-I{sysconfig.get_path('include')}", f"-I{np.get_include()}", "-x", "c", "-", "-o", str(target)]
    try:
        command = shlex.split(compiler) + flags
        done = subprocess.run(command, input=source, text=True, capture_output=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"{compiler}: has not ended after {TIMEOUT_S:g} s"
    except OSError as error:
        return f"{compiler}: {error.strerror}"
    except ValueError as error:  # of its quotes
        return f"{compiler}: {error}"
    said = next(iter(done.stderr.splitlines()), f"exit code {done.returncode}")
    return f"{compiler}: {said}" if done.returncode else ""


def _compilers() -> list[str]:
    """That of the environment first, which may be one that does not know FLAGS."""
    return list(filter(None, dict.fromkeys([os.environ.get("CC", "").strip(), "cc"])))


@functools.cache
def _folder() -> Path:
    """Beside this file, or in the user's own cache."""
    own = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "outpace")
    for folder in (Path(__file__).parent / "__pycache__", own):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise Unbuilt(f"neither {Path(__file__).parent} nor {own} can be written to")


def _machine() -> tuple[str, ...]:
    """What a compiled function is for: homes are shared by machines of several kinds."""
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        able = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return platform.machine(), able, np.__version__, *_compilers(), *FLAGS
