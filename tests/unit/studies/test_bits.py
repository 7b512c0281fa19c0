"""The numbers of the study of one bit against 32, of made traces and times."""

import math
from pathlib import Path

import pytest
from made_traces import write_trace

from outpace.benchmarks.studies.bits import crossover, step_s, steps_to
from outpace.benchmarks.trace.run import Run


@pytest.mark.parametrize(
    ("ratios", "rate"),
    [
        ({20.0: 9.0, 100.0: 3.0, 1000.0: 1 / 3, math.inf: 0.1}, math.sqrt(100 * 1000)),
        ({1000.0: 0.5, 10.0: 2.0}, 100.0),
        ({10.0: 2.0, 100.0: 1.0, 1000.0: 0.5}, 100.0),
        ({10.0: 0.5, 1000.0: 8.0}, 10**1.5),
        ({20.0: 9.0, 1000.0: 1.1, math.inf: 0.5}, None),  # it lies above, where no rate is known
        ({20.0: 0.9, 1000.0: 0.5}, None),
    ],
)
def test_the_crossover_is_where_the_ratio_is_one(ratios: dict[float, float], rate: float | None) -> None:
    assert crossover(ratios) == (None if rate is None else pytest.approx(rate))


def test_steps_and_their_time(tmp_path: Path) -> None:
    """Of worker 0 steps end at 1, 3, 4 and 6 s. After two steps of 4 x 16 samples the loss is 2, after four 1."""
    steps = {"rank": [0, 1, 0, 0, 0], "t_s": [1.0, 2.5, 3.0, 4.0, 6.0]}
    evaluations = {"t_s": [0.0, 3.0, 6.0], "samples": [0, 128, 256], "loss": [3.0, 2.0, 1.0]}
    run = Run(write_trace(tmp_path / "a.h5", {"steps": steps, "evaluations": evaluations}))
    assert step_s(run) == 2.0
    assert [steps_to(run, target) for target in (3.0, 2.0, 1.5, 1.0)] == [0, 2, 3, 4]
    assert math.isinf(steps_to(run, 0.5))
