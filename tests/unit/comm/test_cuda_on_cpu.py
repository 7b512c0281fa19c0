"""The stand-in for a device finds what a device would forgive, or turn into wrong numbers or a hang; and finds none of
it in our kernels."""

import functools
import re
from pathlib import Path
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest
from cuda_on_cpu import Module, SanitizedModule

from outpace.benchmarks.machine import twins
from outpace.comm import cuda, sign, sign_gpu

pytestmark = pytest.mark.skipif(cuda_on_cpu.COMPILER is None, reason="no C++ compiler to run CUDA files on the CPU")

SOURCE = """
typedef unsigned int word;
typedef long long index;

const word ALL = 0xffffffffu;

extern "C" __global__ void vote_of_some(word *out) {
    if (threadIdx.x == 3) return;
    out[0] = __ballot_sync(ALL, true);
}

extern "C" __global__ void two_votes(word *out) {
    if (threadIdx.x % 2)
        out[0] = __ballot_sync(ALL, true);
    else
        out[1] = __ballot_sync(ALL, true);
}

extern "C" __global__ void exchange_of_some(word *out) {
    if (threadIdx.x < 16) out[0] = __shfl_xor_sync(ALL, threadIdx.x, 1);
}

extern "C" __global__ void barrier_of_some(word *out) {
    if (threadIdx.x < 32) __syncthreads();
}

extern "C" __global__ void vote_and_barrier(word *out) {
    if (threadIdx.x < 32) out[0] = __ballot_sync(ALL, threadIdx.x % 3 == 0);
    __syncthreads();
    if (threadIdx.x >= 32) out[1] = out[0] + __shfl_xor_sync(ALL, threadIdx.x, 1);
}

extern "C" __global__ void typed(const REAL *__restrict__ v, word *words, signed char *sums, REAL factor, int planes,
                                 index dim) {
    words[0] = planes;
}

// Each thread reads what its neighbour wrote: behind a barrier, a vote, which orders no memory, or nothing.
__device__ void shift(word *out, int meeting) {
    __shared__ word shared[1024];
    shared[threadIdx.x] = threadIdx.x;
    if (meeting == 2) __syncthreads();
    if (meeting == 1) __ballot_sync(ALL, true);
    out[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}
extern "C" __global__ void shift_by_barrier(word *out) { shift(out, 2); }
extern "C" __global__ void shift_by_vote(word *out) { shift(out, 1); }
extern "C" __global__ void shift_by_luck(word *out) { shift(out, 0); }

extern "C" __global__ void past_the_end(word *out) { out[64] = 1; }

struct alignas(16) Four {
    word at[4];
};
extern "C" __global__ void in_one_access(word *out) { *(Four *)out = {1, 2, 3, 4}; }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="module")
def module(folder: Path) -> Module:
    return Module(SOURCE, "float32", folder / "module.so")


@pytest.mark.parametrize(
    ("name", "threads", "message"),
    [
        ("vote_of_some", 32, "thread 0 is at the vote of line 9, where thread 3 has ended"),
        ("vote_of_some", 64, "thread 0 is at the vote of line 9, where thread 3 has ended"),
        ("two_votes", 32, "thread 0 is at the vote of line 16, where thread 1 is at the vote of line 14"),
        ("exchange_of_some", 32, "thread 0 is at the vote of line 20, where thread 16 has ended"),
        ("barrier_of_some", 64, "thread 0 is at the barrier of line 24, where thread 32 has ended"),
        ("vote_and_barrier", 48, "thread 32 is at the vote of line 30, in a warp of fewer than 32 threads"),
    ],
)
def test_who_waits_in_vain_ends_the_kernel(module: Module, name: str, threads: int, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"kernel {name}: {message}"):
        module.get_function(name)((2,), (threads,), (np.zeros(2, np.uint32),))


def test_a_kernel_goes_on_after_a_fault(module: Module) -> None:
    """Whole warps and blocks meet as on a device, also when the kernel before left threads waiting."""
    out = np.zeros(2, np.uint32)
    with pytest.raises(RuntimeError):
        module.get_function("vote_of_some")((1,), (32,), (out,))
    module.get_function("vote_and_barrier")((1, 1), (64,), (out,))
    assert out[0] == sum(1 << lane for lane in range(0, 32, 3))
    assert out[1] - out[0] == 62  # the last thread hears the one beside it


TYPED = {
    "v": np.zeros(1, np.float32),
    "words": np.zeros(1, np.uint32),
    "sums": np.zeros(1, np.int8),
    "factor": np.float32(1),
    "planes": np.int32(5),
    "dim": np.int64(1),
}


def test_arguments_of_the_declared_types_are_taken(module: Module) -> None:
    module.get_function("typed")((1,), (1,), tuple(TYPED.values()))
    assert TYPED["words"][0] == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"v": np.zeros(1)},
        {"words": np.zeros(1, np.int32)},
        {"sums": np.zeros(1, np.uint8)},
        {"factor": np.float64(1)},
        {"planes": np.int64(5)},
        {"dim": np.int32(1)},
        {"dim": np.uint64(1)},
        {"dim": 1},
        {"dim": np.zeros(1, np.int64)},
        {"v": np.float32(1)},
        {"v": np.zeros(4, np.float32)[::2]},
        {"more": np.int64(1)},
    ],
    ids=lambda wrong: "-".join(f"{name}-{getattr(value, 'dtype', 'int')}" for name, value in wrong.items()),
)
def test_arguments_of_other_types_are_refused(module: Module, wrong: dict[str, Any]) -> None:
    """A device would take their bytes for what the kernel declares, and read past a short one."""
    with pytest.raises(TypeError, match="kernel typed: "):
        module.get_function("typed")((1,), (1,), tuple((TYPED | wrong).values()))


@functools.cache
def sanitized(source: str, folder: Path, sanitizer: str) -> SanitizedModule:
    if reason := cuda_on_cpu.missing(sanitizer):
        pytest.skip(reason)
    return SanitizedModule(source, "float32", folder / f"{abs(hash(source))}-{sanitizer}", sanitizer)


@pytest.mark.parametrize(
    ("sanitizer", "name", "report"),
    [
        ("thread", "shift_by_barrier", ""),
        ("thread", "shift_by_vote", "data race"),
        ("thread", "shift_by_luck", "data race"),
        ("thread", "in_one_access", "misaligned address"),
        ("address", "past_the_end", "heap-buffer-overflow"),
    ],
)
def test_a_sanitizer_reports(folder: Path, sanitizer: str, name: str, report: str) -> None:
    run = sanitized(SOURCE, folder, sanitizer).get_function(name)
    out = np.zeros(65, np.uint32)[1:]
    assert out.ctypes.data % 16 == 4
    if report:
        with pytest.raises(RuntimeError, match=report):
            run((1,), (64,), (out,))
    else:
        run((1,), (64,), (out,))
        assert out.tolist() == [*range(1, 64), 0]


def shifted(array: np.ndarray) -> np.ndarray:
    """A copy that does not start at a multiple of 16 bytes."""
    longer = np.empty(array.size + 1, array.dtype)
    longer[1:] = array.ravel()
    return longer[1:].reshape(array.shape)


def without_barriers(source: str) -> str:
    """The kernel `feedback` and what it calls again, by other names and without their barriers."""
    start, end = source.index("__device__ double sum_of_block"), source.index("// scale <- ")
    dropped = re.sub(r"^ *__syncthreads\(\);\n", "", source[start:end], flags=re.MULTILINE)
    return re.sub(r"\b(sum_of_block|feedback)\b", r"lax_\1", dropped)


SIGN = Path(sign_gpu.__file__).with_name("sign.cu").read_text()
BOTH = SIGN + without_barriers(SIGN)


@pytest.mark.parametrize(("sanitizer", "copies"), [("thread", (np.array,)), ("address", (np.array, shifted))])
def test_our_kernels_pass_the_sanitizers(
    folder: Path, sanitizer: str, copies: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the launch geometry of a device; whole tiles and a tail. They say what the CPU says."""
    monkeypatch.setattr(cuda, "module", lambda path, dtype: sanitized(BOTH, folder, sanitizer))
    g = np.random.default_rng(1).standard_normal(512 + 77).astype(np.float32)
    g[::7] = 0
    for there in copies:
        *exact, e = zip(twins.course(sign_gpu, there, g), twins.course(sign, there, g), strict=True)
        for mine, theirs in exact:
            np.testing.assert_array_equal(mine, theirs)
        np.testing.assert_allclose(*e, rtol=0, atol=1e-6)


def test_a_barrier_dropped_from_our_kernels_is_reported(folder: Path) -> None:
    """Though the sum may be right: here the threads of a block take turns."""
    run = sanitized(BOTH, folder, "thread").get_function("lax_feedback")
    g, e, norms = np.ones(600, np.float32), np.zeros(600, np.float32), np.zeros(1)
    with pytest.raises(RuntimeError, match="data race"):
        run((1,), (64,), (g, e, np.float32(1), norms, np.int64(600)))
