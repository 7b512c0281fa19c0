"""The sign kernels against NumPy's own words for them, on the CPU, on a GPU where there is one, and the CUDA file run
on the CPU where there is a C++ compiler."""

import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cuda_on_cpu
import device_on_cpu
import numpy as np
import pytest
from mpi4py import MPI
from numba import njit

from outpace.benchmarks import micro
from outpace.benchmarks.machine import twins
from outpace.comm import arrays, cuda, sign, sign_gpu
from outpace.comm.arrays import Wired
from outpace.comm.meter import MeteredComm
from outpace.comm.vote import EXCHANGES

KERNELS = [name for name, kernel in inspect.getmembers(sign_gpu, inspect.isfunction) if name in vars(sign)]
DIMS = (1, 7, 31, 32, 33, 64, 100, 1023, 1024, 1025, 2500)
ALL = 0xFFFFFFFF


class Side:
    """Kernels and the arrays they work on. Every call goes through `to` and back, so that tests see NumPy arrays."""

    def __init__(self, kernels: ModuleType, xp: Any) -> None:
        self._kernels, self.xp = kernels, xp

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(self._kernels, name)

        def call(*arguments: Any) -> Any:
            device = [self.xp.asarray(a) if isinstance(a, np.ndarray) else a for a in arguments]
            result = kernel(*device)
            for mine, theirs in zip(arguments, device, strict=True):
                if isinstance(mine, np.ndarray):
                    mine[...] = arrays.to_host(theirs)
            return result

        return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(params=["cpu", "emulated", "strided", pytest.param("gpu", marks=pytest.mark.gpu)], scope="module")
def side(request: pytest.FixtureRequest, folder: Any) -> Iterator[Side]:
    if request.param == "cpu":
        yield Side(sign, np)
    elif request.param in ("emulated", "strided"):
        if cuda_on_cpu.COMPILER is None:
            pytest.skip("no C++ compiler to run the CUDA file on the CPU")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cuda, "module", cuda_on_cpu.modules(folder))
            if request.param == "strided":  # few threads, no power of two; else those of a device
                patch.setattr(cuda, "THREADS", 96)
                patch.setattr(cuda, "BLOCKS", 2)
            yield Side(sign_gpu, np)
    else:
        reason = arrays.no_device()
        if reason:
            pytest.skip(f"this process {reason}")
        import cupy

        yield Side(sign_gpu, cupy)


def bits(words: np.ndarray, dim: int) -> np.ndarray:
    """The first dim bits as booleans, by NumPy's own unpacking."""
    return np.unpackbits(words.view(np.uint8), bitorder="little")[:dim].astype(bool)


def vector(dim: int, dtype: str, seed: int = 0) -> np.ndarray:
    """Normal numbers, with zeros of both signs, subnormals and infinities among them, at the tail too."""
    rng = np.random.default_rng(seed)
    v = rng.standard_normal(dim).astype(dtype)
    special = np.array([0.0, -0.0, np.finfo(dtype).smallest_subnormal, -np.finfo(dtype).smallest_subnormal])
    places = rng.random(dim) < 0.3
    v[places] = rng.choice(special, places.sum())
    v[-1] = special[seed % 4]
    return v


def coins(words: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**32, words, dtype=np.uint32)


def expected_plus(v: np.ndarray, tossed: np.ndarray, turn: int) -> np.ndarray:
    return np.where(v == 0, bits(tossed ^ np.uint32(turn), len(v)), v > 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dim", DIMS)
def test_ballot(side: Side, dim: int, dtype: str) -> None:
    """Every bit, the tail's among them; pad bits are 0, further words stay as they were."""
    for seed, turn in ((0, 0), (1, ALL), (2, 0), (3, ALL)):
        v, size = vector(dim, dtype, seed), sign.words(dim)
        tossed, words = coins(size + 2), np.full(size + 2, 0xABCD1234, np.uint32)
        assert not side.ballot(v, tossed, turn, words)
        np.testing.assert_array_equal(bits(words, dim), expected_plus(v, tossed, turn))
        assert not bits(words, 32 * size)[dim:].any()
        assert (words[size:] == 0xABCD1234).all()


@pytest.mark.parametrize("dim", [1, 40, 2500])
def test_nan_is_reported_wherever_it_is(side: Side, dim: int) -> None:
    """Of either sign bit, whole words and tails: `v > 0` and `v < 0` are both false, so a bit alone hides it."""
    words, tossed = np.zeros(sign.words(dim), np.uint32), coins(sign.words(dim))
    for place in {0, dim // 2, dim - 1}:
        for nan in (np.nan, -np.nan):
            v = np.ones(dim, np.float32)
            v[place] = nan
            assert side.ballot(v, tossed, 0, words)
            assert side.momentum_ballot(v, np.zeros_like(v), 0.9, tossed, 0, words)
            assert np.isnan(side.feedback_ballot(v, np.zeros_like(v), 0.1, tossed, 0, words))
            assert side.stochastic_ballot(v, 2.0, 1, words)
    infinite = np.full(dim, -np.inf, np.float32)
    assert not side.ballot(infinite, tossed, 0, words)
    assert not bits(words, dim).any()
    assert not np.isfinite(side.feedback_ballot(infinite, np.zeros_like(infinite), 0.1, tossed, 0, words))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dim", [1, 33, 1025, 2500])
def test_momentum_ballot(side: Side, dim: int, dtype: str) -> None:
    """Two steps: m is the moving average to the bit, the words are its signs."""
    m, words, tossed = np.zeros(dim, dtype), np.zeros(sign.words(dim), np.uint32), coins(sign.words(dim))
    beta, rest = np.dtype(dtype).type(0.9), np.dtype(dtype).type(1 - 0.9)
    expected = np.zeros(dim, dtype)
    for seed in (0, 1):
        g = vector(dim, dtype, seed)
        expected = beta * expected + rest * g
        assert not side.momentum_ballot(g, m, 0.9, tossed, ALL, words)
        np.testing.assert_array_equal(m, expected)
        np.testing.assert_array_equal(bits(words, dim), expected_plus(m, tossed, ALL))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dim", [1, 33, 1025, 2500])
def test_feedback_ballot(side: Side, dim: int, dtype: str) -> None:
    """What is sent plus what is kept is the corrected gradient, and the scale is its mean magnitude."""
    tolerance = {"float32": 1e-6, "float64": 1e-14}[dtype]
    e, words, tossed = np.zeros(dim, dtype), np.zeros(sign.words(dim), np.uint32), coins(sign.words(dim))
    for seed in (0, 1):
        g = vector(dim, dtype, seed)
        p = e + np.dtype(dtype).type(0.3) * g
        scale = side.feedback_ballot(g, e, 0.3, tossed, 0, words)
        assert scale == pytest.approx(np.abs(p).mean(), rel=10 * tolerance)
        plus = bits(words, dim)
        np.testing.assert_array_equal(plus, expected_plus(p, tossed, 0))
        np.testing.assert_allclose(e + np.where(plus, scale, -scale), p, rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dim", [1, 32, 33, 1025])
def test_stochastic_ballot(side: Side, dim: int, dtype: str) -> None:
    """Every bit by the hash of its coordinate; pad bits are 0, further words stay as they were. The bound and what is
    beyond have their sign, zeros of both signs a fair one."""
    v, size = vector(dim, dtype), sign.words(dim)
    bound = float(np.abs(v).max()) or 1.0
    v[-1], v[dim // 2] = bound, -bound
    v[dim // 3] = 3 * bound
    hashes, words = np.zeros(dim, np.uint32), np.full(size + 2, 0xABCD1234, np.uint32)
    sign.toss(77, hashes)
    assert not side.stochastic_ballot(v, bound, 77, words)
    np.testing.assert_array_equal(bits(words, dim), v / bound > hashes / 2**31 - 1)
    assert not bits(words, 32 * size)[dim:].any()
    assert (words[size:] == 0xABCD1234).all()


def test_stochastic_signs_are_unbiased_up_to_scale() -> None:
    """By the keys of 20,000 steps of one worker: bound x the mean sign is v, to five standard deviations."""
    v, bound, steps = np.linspace(-2, 2, 41), 2.0, 20_000
    words, total = np.zeros(2, np.uint32), np.zeros(41)
    for k in range(steps):
        sign.stochastic_ballot(v, bound, int(sign.hashed(k, 123)), words)
        total += np.where(bits(words, 41), 1, -1)
    mean = bound * total / steps
    assert (mean[0], mean[-1]) == (-2, 2)
    assert (np.abs(mean - v) <= 5 * np.sqrt(bound**2 - v**2) / np.sqrt(steps)).all()


@pytest.mark.parametrize("size", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("n", [*range(1, 10), 16, 27, 64, 127])
def test_tally_and_count(side: Side, n: int, size: int) -> None:
    """Majority and sums against plain sums of signs, ties by the coins or left out, for even and odd electorates."""
    ballots = np.random.default_rng(n).integers(0, 2**32, (n, size), dtype=np.uint32)
    signs = np.stack([2 * bits(row, 32 * size).astype(int) - 1 for row in ballots])
    total, tossed = signs.sum(axis=0), coins(size)
    plus = np.where(total == 0, bits(tossed, 32 * size), total > 0)
    sums = np.zeros(32 * size, np.int8)
    side.count(ballots, sums)
    np.testing.assert_array_equal(sums, total)
    for planes in (1, 2):
        outcomes = np.zeros((2, planes, size), np.uint32)
        side.tally(ballots, tossed, outcomes[0])
        side.decide(sums, tossed, outcomes[1])
        for outcome in outcomes:
            np.testing.assert_array_equal(bits(outcome[0], 32 * size), plus)
            if planes == 2:
                np.testing.assert_array_equal(bits(outcome[1], 32 * size), total != 0)


def test_tally_of_a_thousand(side: Side) -> None:
    """Counters of ten planes; 500 of 1,000 is a tie, and one vote decides 999."""
    words = np.zeros((1000, 3), np.uint32)
    words[:500, 0] = ALL
    words[:501, 1] = ALL
    words[:499, 2] = ALL
    outcome = np.zeros((2, 3), np.uint32)
    side.tally(words, np.zeros(3, np.uint32), outcome)
    assert outcome.tolist() == [[0, ALL, 0], [0, ALL, ALL]]
    side.tally(words[1:].copy(), np.zeros(3, np.uint32), outcome)
    assert outcome.tolist() == [[0, ALL, 0], [ALL, ALL, ALL]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dim", [1, 100, 2500])
def test_mean(side: Side, dim: int, dtype: str) -> None:
    rng = np.random.default_rng(dim)
    ballots = rng.integers(0, 2**32, (5, sign.words(dim) + 1), dtype=np.uint32)
    scales = rng.random(5).astype(dtype)
    v = np.empty(dim, dtype)
    side.mean(ballots, scales, v)
    signs = np.stack([2 * bits(row, dim).astype(float) - 1 for row in ballots])
    np.testing.assert_allclose(v, scales @ signs / 5, rtol=0, atol={"float32": 1e-6, "float64": 1e-15}[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("dim", [1, 33, 95, 96, 97, 2500])
def test_apply(side: Side, dim: int, chunks: int, planes: int, dtype: str) -> None:
    """Decay, then a step of each chunk's own size; padding moves nothing."""
    size = sign.words(dim, chunks)
    rng = np.random.default_rng(dim)
    outcome = rng.integers(0, 2**32, (chunks, planes, size), dtype=np.uint32)
    x, steps = vector(dim, dtype), rng.random(chunks).astype(dtype)
    plus = np.concatenate([bits(chunk[0], 32 * size) for chunk in outcome])[:dim]
    moved = np.concatenate([bits(chunk[-1], 32 * size) for chunk in outcome])[:dim] | (planes == 1)
    step = np.repeat(steps, 32 * size)[:dim]
    expected = np.dtype(dtype).type(0.75) * x - np.where(moved, np.where(plus, step, -step), 0)
    side.apply(x, outcome, steps, 0.75)
    np.testing.assert_array_equal(x, expected)


def test_coins_are_fair_and_their_own(side: Side) -> None:
    """Each bit half of the time, from step to step and from word to word (five standard deviations), and the same
    on both sides."""
    first, other = np.zeros(1000, np.uint32), np.zeros(1000, np.uint32)
    side.toss(123, first)
    sign.toss(123, other)
    np.testing.assert_array_equal(first, other)
    keys = np.random.default_rng(1).integers(2**32, size=40).tolist()
    tossed = np.empty((40, 1000), np.uint32)
    for key, row in zip(keys, tossed, strict=True):
        side.toss(key, row)
    flags = np.stack([bits(row, 32_000) for row in tossed])
    assert abs(flags.mean() - 0.5) < 2.5 / np.sqrt(flags.size)
    agreement = (flags[:-1] == flags[1:]).mean(axis=1)  # of successive steps
    assert (np.abs(agreement - 0.5) < 2.5 / np.sqrt(32_000)).all()
    assert (np.abs((flags[:, :-1] == flags[:, 1:]).mean(axis=1) - 0.5) < 2.5 / np.sqrt(32_000)).all()


def peak_bytes(reset: bool = False) -> int:
    """The most memory this process has held since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def test_no_kernel_allocates_a_vector() -> None:
    """A step of every kernel on the CPU needs no memory of the size of a vector, not even for a moment."""
    dim, n = 1 << 24, 4
    g, m, e, x = (np.ones(dim, np.float32) for _ in range(4))
    words, tossed = np.zeros(sign.words(dim), np.uint32), np.zeros(sign.words(dim), np.uint32)
    ballots, outcome = words.reshape(n, -1), np.zeros((n, 2, sign.words(dim) // n), np.uint32)
    sums, steps, v = np.zeros(dim // n, np.int8), np.ones(n, np.float32), np.ones(dim // n, np.float32)

    def step() -> None:
        sign.toss(1, tossed)
        sign.ballot(g, tossed, 0, words)
        sign.momentum_ballot(g, m, 0.9, tossed, 0, words)
        sign.feedback_ballot(g, e, 0.1, tossed, 0, words)
        sign.stochastic_ballot(g, 2.0, 1, words)
        sign.tally(ballots, tossed, outcome[0])
        sign.count(ballots, sums)
        sign.decide(sums, tossed, outcome[0])
        sign.mean(ballots, steps, v)
        sign.apply(x, outcome, steps, 0.9)

    step()
    before = peak_bytes(reset=True)
    step()
    assert peak_bytes() - before < g.nbytes / 20


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", KERNELS)
def test_micro_compares_every_kernel(name: str, dtype: str) -> None:
    """One that does nothing, in one of the real types, is found out."""
    kernels = {each: getattr(sign, each) for each in KERNELS}
    twins.validate(SimpleNamespace(**kernels), SimpleNamespace(asarray=np.array))

    def idle(*arguments: Any) -> None:
        reals = {str(a.dtype) for a in arguments if isinstance(a, np.ndarray) and a.dtype.kind == "f"}
        if reals and dtype not in reals:
            getattr(sign, name)(*arguments)

    with pytest.raises(RuntimeError, match="differ"):
        twins.validate(SimpleNamespace(**kernels | {name: idle}), SimpleNamespace(asarray=np.array))


@pytest.mark.skipif(cuda_on_cpu.COMPILER is None, reason="no C++ compiler to run the CUDA file on the CPU")
def test_micro_leaves_no_kernel_running(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """What it times ends with a wait for the device, by whichever exchange."""
    cupy = device_on_cpu.install(monkeypatch, folder)
    comm, v = MeteredComm(MPI.COMM_SELF), cupy.asarray(np.ones(100, np.float32))
    for name, exchange in EXCHANGES.items():
        route = exchange(comm, 100, cupy)
        ballot = Wired((route.owners, route.words), np.uint32, cupy, comm)
        outcome = Wired((route.owners, 1, route.words), np.uint32, cupy, comm)
        micro._vote(route, v, ballot, outcome)
        assert not any(queue.waiting for queue in cupy.device.queues), name
    assert {"ballot", "tally", "count", "decide"} < {kernel for kernel, *_ in cupy.device.compiled}


def test_no_folder_to_keep_compiled_kernels_in(tmp_path: Path) -> None:
    """Neither beside the source nor in the home: files are in the way, as permissions would not stop root."""
    shutil.copy(sign.__file__, tmp_path / "kernels.py")
    (tmp_path / "__pycache__").write_text("")
    lines = "import kernels, numpy; coins = numpy.zeros(2, numpy.uint32); kernels.toss(123, coins); print(*coins)"
    places = {"HOME": "/dev/null", "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    caches = ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    environment = {name: text for name, text in os.environ.items() if name not in caches} | places
    done = subprocess.run(
        [sys.executable, "-c", lines], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    tossed = np.zeros(2, np.uint32)
    sign.toss(123, tossed)
    assert done.stdout.split() == [str(word) for word in tossed]


def test_a_word_of_signs_is_two_comparisons() -> None:
    """Of 32 numbers with zero, and of their sign bits; a third one, for NaN, only where there are zeros or NaN."""
    compiled = njit(sign._write_signs.py_func)
    compiled(np.ones(64, np.float32), np.zeros(2, np.uint32), 0, np.zeros(2, np.uint32))
    (text,) = compiled.inspect_llvm().values()
    assert set(re.findall(r"fcmp (\w+) <32 x float>", text)) == {"ueq", "uno"}
    assert "icmp slt <32 x i32>" in text
