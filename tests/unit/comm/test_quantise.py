"""The quantisers: unbiased, of the variance that their papers state, in messages of the stated size."""

import tracemalloc

import numpy as np
import pytest

from outpace.comm.quantise import Quantiser

DRAWS = 10_000


def draws(levels: int, greatest: bool, v: np.ndarray) -> np.ndarray:
    """DRAWS quantised versions of v, through real messages."""
    coder, rng = Quantiser(levels, greatest, v, np), np.random.default_rng(1)
    message, result = np.zeros((1, coder.message_words), np.uint32), np.empty((DRAWS, v.size), v.dtype)
    for row in result:
        coder.encode(v, coder.norm(v), rng, message[0])
        coder.mean(message, row)
    return result


def vector() -> np.ndarray:
    v = np.random.default_rng(2).standard_normal(37)
    v[[3, 36]] = 0.0, -0.0
    return v


@pytest.mark.parametrize(
    ("levels", "greatest"), [(1, False), (4, False), (127, False), (1, True)], ids=["1", "4", "127", "TernGrad"]
)
def test_unbiased_with_the_stated_variance(levels: int, greatest: bool) -> None:
    """The mean of 10,000 draws is v, to five standard deviations per coordinate; second moments as in the papers."""
    v = vector()
    Q = draws(levels, greatest, v)
    assert (np.abs(Q.mean(axis=0) - v) <= 5 * Q.std(axis=0) / np.sqrt(DRAWS) + 1e-12).all()
    second, norm = (Q**2).sum(axis=1), np.linalg.norm(v)
    tolerance = 5 * second.std() / np.sqrt(DRAWS)
    if levels == 1 and not greatest:
        assert second.mean() == pytest.approx(np.abs(v).sum() * norm, abs=tolerance)
    if greatest:
        assert second.mean() == pytest.approx(np.abs(v).max() * np.abs(v).sum(), abs=tolerance)
        assert set(np.unique(np.abs(Q)).round(12)) == {0.0, round(np.abs(v).max(), 12)}  # the largest is kept
    else:
        s, error = levels, ((Q - v) ** 2).sum(axis=1)
        bound = min(v.size / s**2, np.sqrt(v.size) / s) * norm**2
        assert error.mean() <= bound
        # exactly: the sum of the variances of the roundings
        a = s * np.abs(v) / norm
        exact = (norm / s) ** 2 * ((a - np.floor(a)) * (1 - (a - np.floor(a)))).sum()
        assert error.mean() == pytest.approx(exact, abs=5 * error.std() / np.sqrt(DRAWS))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("levels", "bits"), [(1, 2), (7, 4), (8, 5)])
def test_messages(levels: int, bits: int, dtype: str) -> None:
    """Of the stated size, also for a dim that fills no word; the mean of messages is that of their vectors; zeros
    stay zero, more than one block is coded like one, and what is not finite does not pass for a number."""
    rng = np.random.default_rng(3)
    for dim in (1, 33, 70_001):
        V = rng.standard_normal((3, dim)).astype(dtype)
        coder = Quantiser(levels, False, V[0], np)
        assert 4 * coder.message_words == 4 * bits * -(-dim // 32) + V.itemsize
        messages, decoded, mean = np.zeros((3, coder.message_words), np.uint32), np.empty_like(V), np.empty_like(V[0])
        for v, message, row in zip(V, messages, decoded, strict=True):
            coder.encode(v, coder.norm(v), rng, message)
            coder.mean(message[None], row)
            assert (row * v >= 0).all()
        coder.mean(messages, mean)
        np.testing.assert_allclose(mean, decoded.mean(axis=0), rtol=0, atol=1e-5 * np.linalg.norm(V[0]))
        coder.encode(np.zeros_like(mean), 0.0, rng, messages[0])
        coder.mean(messages[:1], mean)
        assert not mean.any()
        for bad in (np.nan, np.inf):
            V[0, dim // 2] = bad
            with np.errstate(invalid="ignore"):
                coder.encode(V[0], coder.norm(V[0]), rng, messages[0])
                coder.mean(messages, mean)
            assert not np.isfinite(mean[dim // 2])


def test_no_vector_is_allocated() -> None:
    v = np.random.default_rng(4).standard_normal(1 << 22).astype(np.float32)
    coder, rng = Quantiser(7, False, v, np), np.random.default_rng(5)
    messages = np.zeros((2, coder.message_words), np.uint32)
    tracemalloc.start()
    coder.encode(v, coder.norm(v), rng, messages[0])
    coder.mean(messages, v)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < v.nbytes / 10


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounding_is_uniform(dtype: str) -> None:
    """Below 1, and fair in each of 64 equal parts (five standard deviations), for keys drawn as a step draws them."""
    coder = Quantiser(7, False, np.zeros(100_000, dtype), np)
    rng = np.random.default_rng(6)
    counts = np.zeros(64)
    for _ in range(20):
        coder.encode(np.zeros(100_000, dtype), 0.0, rng, np.zeros(coder.message_words, np.uint32))
        u = coder._uniform(coder.hashes)
        assert u.dtype == dtype
        assert 0 <= u.min() < u.max() < 1
        counts += np.histogram(u, 64, (0, 1))[0]
    expected = 2_000_000 / 64
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()
    largest = coder._uniform(np.full(1, 2**32 - 1, np.uint32))
    assert largest < 1
