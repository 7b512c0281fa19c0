"""Every CUDA file compiles for the devices that are in use, with the compiler's wheel alone: no GPU, no driver."""

from pathlib import Path
from typing import Any

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
    """To machine code, with the options that CuPy is given. A warning is an error."""
    number = newest() if device == "newest" else int(device)
    program = check(None, nvrtc.nvrtcCreateProgram(source.read_bytes(), source.name.encode(), 0, [], []))
    flags = [*cuda.options(dtype), f"--gpu-architecture=sm_{number}"]
    check(program, nvrtc.nvrtcCompileProgram(program, len(flags), [flag.encode() for flag in flags]))
    assert not [line for line in log(program).splitlines() if "warning" in line and "deprecated" not in line]
    code = bytes(check(program, nvrtc.nvrtcGetCUBINSize(program)))
    check(program, nvrtc.nvrtcGetCUBIN(program, code))
    assert code[:4] == b"\x7fELF"
    for name in kernel_names(source):
        assert name.encode() in code, f"no kernel {name}"
    check(program, nvrtc.nvrtcDestroyProgram(program))


def kernel_names(source: Path) -> list[str]:
    """The kernels that Python starts by name are those declared extern "C"."""
    return [line.split("(")[0].split()[-1] for line in source.read_text().splitlines() if "__global__ void" in line]
