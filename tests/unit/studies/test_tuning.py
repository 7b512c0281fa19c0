import math
from collections.abc import Callable

import pytest

from outpace.benchmarks.studies.tuning import step_size, tuned


def at(best: float) -> Callable[[float], float]:
    """A loss that grows by decades away from the best step size, and is not finite beyond ten times it."""
    return lambda gamma: math.nan if gamma > 10 * best else abs(math.log10(gamma / best))


@pytest.mark.parametrize("best", [0.03, 0.1, 0.3, 1.0, 30.0, 1e4])
def test_the_search_goes_on_until_the_best_is_between_two_worse_ones(best: float) -> None:
    found, losses = tuned(at(best), -1)
    assert found == pytest.approx(best)
    tried = list(losses)
    assert tried == sorted(tried)
    assert 0 < tried.index(found) < len(tried) - 1
    assert {0.1, 0.3, 1.0} <= losses.keys()


def test_of_equal_losses_the_smaller_step_size_is_taken() -> None:
    found, losses = tuned(lambda gamma: float(gamma not in (0.1, 0.3)), -1)
    assert (found, list(losses)) == (0.1, [0.03, 0.1, 0.3, 1.0])


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_where_all_diverge_the_search_ends(loss: float) -> None:
    assert tuned(lambda gamma: loss, 1)[1] == dict.fromkeys(map(step_size, (0, 1, 2)), math.inf)
