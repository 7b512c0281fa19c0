"""Messages of half the bytes: rounded to one of the two nearest numbers, right in the mean, the same on a device."""

from pathlib import Path

import cuda_on_cpu
import device_on_cpu
import numpy as np
import pytest

from outpace.comm import bfloat16
from outpace.comm.bfloat16 import WireFormat
from outpace.comm.errors import UserError

DRAWS = 4000


def upper(x: np.ndarray) -> np.ndarray:
    """The numbers without the lower half of their bits: the bfloat16 next to zero."""
    return (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def vector(dim: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    return (rng.standard_normal(dim) * 10.0 ** rng.integers(-30, 30, dim)).astype(np.float32)


def sent(form: WireFormat, x: np.ndarray) -> np.ndarray:
    words, y = form.like(x), np.empty_like(x)
    form.narrow(x, words)
    form.widen(words, y)
    return y


def test_one_of_the_two_nearest_and_right_in_the_mean() -> None:
    """To five standard deviations per coordinate, over 60 powers of ten and both signs."""
    x, form = vector(50), WireFormat("bfloat16", seed=1, rank=2)
    below = upper(x)
    above = upper((x.view(np.uint32) + np.uint32(0x10000)).view(np.float32))
    draws = np.stack([sent(form, x) for _ in range(DRAWS)])
    assert ((draws == below) | (draws == above)).all()
    share = (draws == above).mean(axis=0)
    expected = (x.astype(float) - below) / (above.astype(float) - below)
    assert (np.abs(share - expected) <= 5 * np.sqrt(expected * (1 - expected) / DRAWS) + 1e-3).all()


def test_what_needs_no_rounding_stays_and_what_is_not_finite_too() -> None:
    """Also the NaN of a GPU, all of whose bits are ones, and that of which all that says so is in the lower half."""
    nans = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFF80FFFF], np.uint32).view(np.float32)
    x = np.concatenate([np.array([0.0, -0.0, 1.0, -2.5, 2.0**-133, np.inf, -np.inf], np.float32), nans])
    form = WireFormat("bfloat16", seed=0, rank=0)
    for _ in range(50):
        y = sent(form, x)
        np.testing.assert_array_equal(y[:7].view(np.uint32), x[:7].view(np.uint32))
        assert np.isnan(y[7:]).all()


def test_seeded_per_worker_and_message() -> None:
    x = vector(100)
    forms = [WireFormat("bfloat16", seed, rank) for seed, rank in ((1, 0), (1, 0), (1, 1), (2, 0))]
    first, again, other, late = ([sent(form, x) for _ in range(2)] for form in forms)
    np.testing.assert_array_equal(first, again)
    assert len({draw.tobytes() for draw in (*first, *other, *late)}) == 6


def test_as_it_is() -> None:
    """No array, no copy, nothing to remember."""
    form, x = WireFormat("same", 0, 0), vector(5)
    assert form.like(x) is x
    assert not form.memory


@pytest.mark.skipif(cuda_on_cpu.COMPILER is None, reason="no C++ compiler to run the CUDA file on the CPU")
def test_a_device_rounds_alike(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cupy = device_on_cpu.install(monkeypatch, tmp_path)
    x = np.concatenate([vector(200), np.array([0x7FFFFFFF], np.uint32).view(np.float32)])
    here, there = (WireFormat("bfloat16", 3, 1) for _ in range(2))
    words, on_device, y = here.like(x), cupy.asarray(x), cupy.zeros(201, np.float32)
    device_words = there.like(on_device)
    here.narrow(x, words)
    there.narrow(on_device, device_words)
    there.widen(device_words, y)
    np.testing.assert_array_equal(device_words.get(), words)
    here.widen(words, x)
    np.testing.assert_array_equal(y.get(), x)


def test_halves_of_float32_alone() -> None:
    bfloat16.check("same", "float64")
    bfloat16.check("bfloat16", "float32")
    with pytest.raises(UserError, match=r"^--wire-dtype bfloat16: --dtype is float64; it must be float32"):
        bfloat16.check("bfloat16", "float64")
