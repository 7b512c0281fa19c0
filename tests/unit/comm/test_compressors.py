"""The compressors: contractions by the papers' factors, in messages of the stated size, the same to the bit for all."""

import tracemalloc

import numpy as np
import pytest

from outpace.comm import spec
from outpace.comm.compressors import COMPRESSORS, Codec

DRAWS = 200
TEXTS = ("identity", "sign", "top-k:share=0.01", "top-k:share=0.3", "qsgd:levels=1", "qsgd", "qsgd:levels=127")
every = pytest.mark.parametrize("text", TEXTS)
both = pytest.mark.parametrize("dtype", ["float32", "float64"])


def codec(text: str, v: np.ndarray) -> Codec:
    made: Codec = spec.parse(text, COMPRESSORS, "--compressor").codec(v, np)
    return made


def compressed(coder: Codec, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """C(v), through a real message."""
    message, result = np.zeros(coder.message_words, np.uint32), np.zeros_like(v)
    coder.encode(v.copy(), rng, message)
    coder.add(message, result)
    return result


def delta(text: str, v: np.ndarray) -> float:
    """By the formulas of the papers."""
    name, _, value = text.partition("=")
    if name == "sign":
        return float(np.abs(v).sum() ** 2 / (v.size * (v @ v)))
    if name.startswith("top-k"):
        return max(1, round(float(value) * v.size)) / v.size
    if name.startswith("qsgd"):
        s = float(value or 7)
        return 1 / (1 + min(v.size / s**2, v.size**0.5 / s))
    return 1.0


def vectors(dim: int) -> list[np.ndarray]:
    """Of normal numbers, of very unequal ones, of equal ones with both signs, one that is nearly all zeros."""
    rng = np.random.default_rng(dim)
    normal, lonely = rng.standard_normal(dim), np.zeros(dim)
    lonely[dim // 2] = -3.0
    return [normal, normal**9, np.where(normal > 0, 2.0, -2.0), lonely]


@every
@pytest.mark.parametrize("dim", [1, 33, 1000])
def test_contracts_by_its_delta(text: str, dim: int) -> None:
    """E |C(v) - v|^2 <= (1 - delta) |v|^2, to five standard deviations of the mean. Without 1 / tau QSGD of one level
    fails, and so do signs scaled by |v|_2 and any k coordinates but the greatest."""
    rng = np.random.default_rng(1)
    for v in vectors(dim):
        coder = codec(text, v)
        errors = np.array([((compressed(coder, v, rng) - v) ** 2).sum() for _ in range(DRAWS)])
        allowed = (1 - delta(text, v)) * (v @ v)
        assert errors.mean() <= allowed + 5 * errors.std() / DRAWS**0.5 + 1e-9 * (v @ v)
        if text == "sign":  # exactly, whatever signs the zeros get
            np.testing.assert_allclose(errors, allowed, rtol=1e-9, atol=1e-12)


def test_greatest_are_kept() -> None:
    """With their values, as many as k says, of equal ones the first."""
    v = np.array([0.5, -3.0, 1.0, 3.0, -1.0, 0.0, 1.0, -0.25, 2.0, 1.0])
    rng = np.random.default_rng(2)
    np.testing.assert_array_equal(compressed(codec("top-k:share=0.1", v), v, rng), np.where(np.arange(10) == 1, v, 0))
    kept = compressed(codec("top-k:share=0.5", v), v, rng)
    np.testing.assert_array_equal(kept, [0, -3, 1, 3, -1, 0, 0, 0, 2, 0])
    np.testing.assert_array_equal(compressed(codec("top-k:share=1", v), v, rng), v)


def test_zeros_have_no_side() -> None:
    """Of 10,000 zeros about half become plus (five standard deviations), and others at the next message."""
    v = np.zeros(10_001)
    v[-1] = 10_001.0
    coder, rng = codec("sign", v), np.random.default_rng(3)
    first, second = (compressed(coder, v, rng)[:-1] for _ in range(2))
    np.testing.assert_array_equal(np.abs(first), 1.0)
    for mean in (first.mean(), second.mean(), (first * second).mean()):
        assert abs(mean) < 0.05


@both
@every
def test_messages(text: str, dtype: str) -> None:
    """Of the stated size, also where dim fills no word or more than one block; two that add one message to equal
    vectors have equal vectors; what is not finite does not pass for a number."""
    rng = np.random.default_rng(4)
    for dim in (1, 33, 70_001):
        v, here = rng.standard_normal((2, dim)).astype(dtype)
        coder, there = codec(text, v), here.copy()
        words, real = -(-dim // 32), v.itemsize // 4
        k = max(1, round(float(text.partition("=")[2]) * dim)) if text.startswith("top-k") else 0
        bits = 1 + int(text.partition("=")[2] or 7).bit_length() if text.startswith("qsgd") else 0
        stated = {"i": real * dim, "s": real + words, "t": (real + 1) * k, "q": real + bits * words}[text[0]]
        assert coder.message_words == stated
        message = np.zeros(stated, np.uint32)
        coder.encode(v.copy(), rng, message)
        coder.add(message, here)
        codec(text, v).add(message, there)
        np.testing.assert_array_equal(here, there)
        coder.encode(np.zeros_like(v), rng, message)
        coder.add(message, there)
        np.testing.assert_array_equal(here, there)
        for bad in (np.nan, np.inf):
            v[dim // 2] = bad
            with np.errstate(invalid="ignore"):
                assert not np.isfinite(compressed(coder, v, rng)[dim // 2])


@every
def test_no_vector_is_allocated(text: str) -> None:
    v = np.random.default_rng(5).standard_normal(1 << 21)
    coder, rng = codec(text, v), np.random.default_rng(6)
    message, x = np.zeros(coder.message_words, np.uint32), np.zeros_like(v)
    tracemalloc.start()
    coder.encode(v, rng, message)
    coder.add(message, x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < v.nbytes / 10
