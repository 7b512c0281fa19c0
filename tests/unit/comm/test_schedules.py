"""Step sizes by SPEC, at numbers worked out by hand; batches by shuffled passes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.comm import schedules
from outpace.comm.batches import AHEAD, Batches, Sampling
from outpace.comm.errors import UserError
from outpace.comm.schedules import step_sizes
from outpace.comm.state import capture, restore
from outpace.comm.streams import BATCHES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("constant", [8, 8, 8, 8, 8, 8, 8, 8]),
        ("constant:warm-up=2", [2, 4, 6, 8, 8, 8, 8, 8]),  # the last step of the ramp is a full one
        ("constant:warm-up=0.1", [8, 8, 8, 8, 8, 8, 8, 8]),  # of less than a step
        ("sqrt", [8, 8 / 2**0.5, 8 / 3**0.5, 4, 8 / 5**0.5, 8 / 6**0.5, 8 / 7**0.5, 8 / 8**0.5]),
        ("step:at=1+3,factor=0.5", [8, 8, 4, 4, 4, 4, 2, 2]),  # from the first step of the epoch on
        ("step:at=3+1,factor=0.5", [8, 8, 4, 4, 4, 4, 2, 2]),
        ("step:at=1.6", [8, 8, 8, 8, 0.8, 0.8, 0.8, 0.8]),
        ("step:at=1,warm-up=2", [2, 4, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8]),
        ("cosine", [8, 4 + 2 * 3**0.5, 6, 4, 2, 4 - 2 * 3**0.5, None, None]),
        ("cosine:warm-up=2", [2, 2 + 3**0.5, 4.5, 4, 2, 4 - 2 * 3**0.5, None, None]),
    ],
)
def test_step_sizes(text: str, expected: list[float | None]) -> None:
    """Of a run of 6 steps, of which two are an epoch, at step size 8."""
    gamma = step_sizes(text, 8.0, steps_per_epoch=2.0, total=6)
    for k, size in enumerate(expected):
        assert size is None or gamma(k) == pytest.approx(size, rel=1e-14), k


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("inverse-sqrt", "--schedule: unknown name 'inverse-sqrt'; allowed: constant, sqrt, step, cosine"),
        ("step", "--schedule step: needs at="),
        ("step:at=0", "--schedule step: at is 0; it must be more than 0 and at most 1e+100"),
        ("step:at=30,factor=2", "--schedule step: factor is 2; it must be more than 0 and at most 1"),
        ("sqrt:warm-up=-1", "--schedule sqrt: warm-up is -1; it must be at least 0 and at most 1e+100"),
        ("sqrt:warm_up=1", "--schedule sqrt: unknown key 'warm_up'; allowed: warm-up"),
    ],
)
def test_bad_schedules(text: str, reason: str) -> None:
    with pytest.raises(UserError) as raised:
        schedules.parse(text)
    assert str(raised.value) == reason


def test_a_cosine_needs_an_end() -> None:
    with pytest.raises(UserError, match=r"--schedule cosine: .* needs --epochs"):
        step_sizes("cosine", 1.0, steps_per_epoch=2.0, total=None)


def test_replacement_is_one_draw_per_batch() -> None:
    """The numbers that earlier versions drew, so that runs of before repeat: also where a batch begins with the last
    ones that were drawn ahead, and is longer than what is drawn at once. From what is kept, the same batches follow."""
    batches, rng = Batches("replacement", 100, seed=3, rank=2), np.random.default_rng([BATCHES, 3, 2])
    for size in (16, 1, 7, AHEAD - 30, 11, 3 * AHEAD, AHEAD, 5):
        np.testing.assert_array_equal(batches.draw(size), rng.integers(100, size=size))
    again = _restored("replacement", 100, 3, 2, batches)
    for size in (16, AHEAD, 7):
        np.testing.assert_array_equal(again.draw(size), rng.integers(100, size=size))


def test_a_batch_stays_as_it_was_drawn() -> None:
    batches = Batches("replacement", 100, seed=0, rank=0)
    first = batches.draw(16)
    before = first.copy()
    batches.draw(2 * AHEAD)
    np.testing.assert_array_equal(first, before)


def _restored(sampling: Sampling, n_samples: int, seed: int, rank: int, batches: Batches) -> Batches:
    """Others that go on where these stand."""
    again = Batches(sampling, n_samples, seed, rank)
    for name, thing in again.memory.items():
        restore(thing, capture(batches.memory[name]))
    return again


@given(
    n_samples=st.integers(1, 20), sizes=st.lists(st.integers(1, 50), min_size=1, max_size=8), seed=st.integers(0, 99)
)
def test_shuffled_passes(n_samples: int, sizes: list[int], seed: int) -> None:
    """Every sample once in each pass, however batches lie in it; and from what is kept, the same batches follow."""
    batches = Batches("shuffle", n_samples, seed, rank=1)
    drawn = np.concatenate([batches.draw(size) for size in sizes])
    assert len(drawn) == sum(sizes)
    whole = len(drawn) // n_samples * n_samples
    passes = drawn[:whole].reshape(-1, n_samples)
    assert (np.sort(passes, axis=1) == np.arange(n_samples)).all()
    assert len(set(drawn[whole:])) == len(drawn) - whole
    again = _restored("shuffle", n_samples, seed, 1, batches)
    for size in sizes:
        np.testing.assert_array_equal(again.draw(size), batches.draw(size))


def test_every_pass_and_every_worker_has_an_order_of_its_own() -> None:
    passes = [Batches("shuffle", 50, seed, rank) for seed, rank in ((0, 0), (0, 1), (1, 0))]
    orders = [tuple(batches.draw(50)) for batches in passes for _ in range(2)]
    assert len(set(orders)) == len(orders)
