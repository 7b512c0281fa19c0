"""The bounds by a second way: recursions and sums step by step, in place of their closed forms."""

import math

import pytest

from outpace.benchmarks.studies import bounds


@pytest.mark.parametrize(("decay", "step_size"), [(1 / 3, 0.2), (0.8, 0.05), (0.0, 0.5)])
def test_gossip_bound_is_that_of_its_recursion(decay: float, step_size: float) -> None:
    """The distance of the models is iterated to its fixed point, and the condition on the step size used as late as can
    be: so the closed form is above, and where the step size is as large as allowed it is the same."""
    L, variance, gap, n, steps = 1.0, 30.0, 50.0, 4, 200
    spread = bounds.ZETA**2 * bounds.DIM
    V = 0.0
    for _ in range(2000):
        pull = 2 * L**2 * V + 2 * spread
        V = decay * V + step_size**2 * variance + step_size**2 / (1 - decay) * pull
    expected = 2 * gap / (step_size * steps) + step_size * L * variance / n + L**2 * V
    found = bounds.gossip_bound(step_size, steps, n, decay, L, variance, gap)
    assert found >= expected * (1 - 1e-12)
    largest = (1 - decay) / (2 * L)
    if step_size == pytest.approx(largest):
        assert found == pytest.approx(expected)


def test_sign_bound_has_the_rates_of_the_theorem() -> None:
    """A squared sum of two terms, over the root of the number of samples N = K^2; the noise over that of the votes."""
    K, smoothness, gap = 25, 39.0, 20.0
    without_noise = bounds.sign_bound(K, 1, smoothness, 0.0, gap)
    assert without_noise == pytest.approx(smoothness * 20.5**2 / math.sqrt(K**2))
    alone = bounds.sign_bound(K, 1, 0.0, 100.0, gap)
    assert alone == pytest.approx(4 * 100**2 / K)
    assert bounds.sign_bound(K, 4, 0.0, 100.0, gap) == pytest.approx(alone / 4)
