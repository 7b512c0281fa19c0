"""Every CUDA file compiles for the devices that are in use, with the compiler's wheel alone: no GPU, no driver. What it
compiles to is read with the disassembler's."""

import importlib.metadata
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outpace.comm import cuda

nvrtc: Any = pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings (extra dev) is not installed")
ROOT = Path(__file__).parents[3]
SOURCES = sorted(path for folder in ("algorithms", "benchmarks", "comm") for path in (ROOT / folder).rglob("*.cu"))


def check(program: Any, result: tuple[Any, ...]) -> Any:
    """The value of an NVRTC call; its error with the compiler's log."""
    status, *values = result
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        pytest.fail(f"{status.name}\n{log(program)}")
    return values[0] if values else None


def log(program: Any) -> str:
    text = bytes(nvrtc.nvrtcGetProgramLogSize(program)[1])
    nvrtc.nvrtcGetProgramLog(program, text)  # writes into it
    return text.decode()


def newest() -> int:
    return int(max(check(None, nvrtc.nvrtcGetSupportedArchs())))


def test_there_are_cuda_files() -> None:
    assert ROOT / "comm" / "sign.cu" in SOURCES


@pytest.mark.parametrize("dtype", sorted(cuda.C_NAMES))
@pytest.mark.parametrize("device", ["70", "80", "90", "newest"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_compiles(source: Path, device: str, dtype: str) -> None:
    code = compiled(source, newest() if device == "newest" else int(device), dtype)
    assert code[:4] == b"\x7fELF"
    for name in kernel_names(source):
        assert name.encode() in code, f"no kernel {name}"


def compiled(source: Path, device: int, dtype: str) -> bytes:
    """Machine code, by the options that CuPy is given. A warning is an error, and so is a spilled register."""
    program = check(None, nvrtc.nvrtcCreateProgram(source.read_bytes(), source.name.encode(), 0, [], []))
    flags = [*cuda.options(dtype), f"--gpu-architecture=sm_{device}", "--ptxas-options=-v"]
    check(program, nvrtc.nvrtcCompileProgram(program, len(flags), [flag.encode() for flag in flags]))
    assert not [line for line in log(program).splitlines() if "warning" in line and "deprecated" not in line]
    assert set(re.findall(r"(\d+) bytes (?:spill|stack)", log(program))) == {"0"}
    code = bytes(check(program, nvrtc.nvrtcGetCUBINSize(program)))
    check(program, nvrtc.nvrtcGetCUBIN(program, code))
    check(program, nvrtc.nvrtcDestroyProgram(program))
    return code


def kernel_names(source: Path) -> list[str]:
    """The kernels that Python starts by name are those declared extern "C"."""
    return [line.split("(")[0].split()[-1] for line in source.read_text().splitlines() if "__global__ void" in line]


# Vectors that a thread reads ROWS = 4 times four numbers of, and those that it writes.
VECTORS = {"ballot": (1, 0), "apply": (1, 1), "feedback": (2, 1), "feedback_ballot": (1, 1), "momentum_ballot": (2, 1)}


@pytest.mark.parametrize("dtype", sorted(cuda.C_NAMES))
def test_vectors_are_read_at_the_memorys_pace(dtype: str, tmp_path: Path) -> None:
    """On sm_90: all loads of a thread's numbers, 16 bytes each, are under way before its warp exchanges bits or writes
    any; no registers are spilled, nothing is divided in software."""
    found = dict(instructions(compiled(ROOT / "comm" / "sign.cu", 90, dtype), tmp_path / "sign.cubin"))
    for name, (read, written) in VECTORS.items():
        loads, accesses = loads_in_flight(found[name]), 4 * np.dtype(dtype).itemsize // 4
        assert loads, name
        assert all(run % (read * accesses) == 0 for run in loads), f"{name}: {loads}"
        assert sum(each.startswith("STG.E.128") for each in found[name]) == written * accesses, name
        slow = [each for each in found[name] if re.match("LDL|STL|CALL|MUFU.RCP", each)]
        assert not slow, f"{name}: {slow}"


def loads_in_flight(instructions: list[str]) -> list[int]:
    """How many loads of 16 bytes stand between one exchange of a warp, or write, and the next, where there are any."""
    kinds = (re.match("(LDG.E.128)|SHFL|VOTE\\.|STG", each) for each in instructions)
    runs = "".join("L" if kind[1] else " " for kind in kinds if kind)
    return [len(run) for run in runs.split()]


def instructions(code: bytes, path: Path) -> Iterator[tuple[str, list[str]]]:
    """The kernels of a machine code and their instructions, without predicates."""
    try:
        files = importlib.metadata.files("nvidia-cuda-nvdisasm") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("nvidia-cuda-nvdisasm (extra dev) is not installed")
    (program,) = (str(file.locate()) for file in files if file.name == "nvdisasm")
    path.write_bytes(code)
    text = subprocess.run([program, "-c", str(path)], check=True, capture_output=True, text=True).stdout
    for part in re.split(r"^\.text\.", text, flags=re.MULTILINE)[1:]:
        name, body = part.split(":", 1)
        lines = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(.*?) ;", body)
        yield name, [re.sub(r"^@!?\w+ +", "", line) for line in lines]
