"""The alpha-beta model against cases that can be done in the head: messages of 1000 bytes, compute of 1 s."""

import pytest

from outpace.benchmarks.studies.alpha_beta import gradients_per_s

FAST, SLOW = 1000.0, 100.0  # bytes/s: a model in 1 s, and in 10 s


@pytest.mark.parametrize(
    ("program", "rates", "alpha_s", "expected"),
    [
        ("allreduce_sgd", [FAST] * 2, 0.0, 2 / (1 + 1)),  # half a model out and back in, then the other half
        ("allreduce_sgd", [FAST] * 4, 0.0, 4 / (1 + 0.5 + 0.25 + 0.25 + 0.5)),  # halves and quarters, there and back
        ("allreduce_sgd", [FAST] * 4, 0.1, 4 / (1 + 1.5 + 4 * 0.1)),  # four messages after each other
        ("allreduce_sgd", [FAST, SLOW, FAST, FAST], 0.0, 4 / (1 + 15)),
        ("d_psgd", [FAST] * 4, 0.0, 4 / 2),  # two models at once take 2 s, and the gradient is ready by then
        ("d_psgd", [10 * FAST] * 4, 0.0, 4 / 1),  # 0.2 s: the gradient's second counts
        ("d_psgd", [FAST] * 2, 0.5, 2 / 1.5),  # one neighbour
        ("d_psgd", [FAST, FAST, SLOW, FAST], 0.0, 4 / 20),
        ("d2", [FAST] * 4, 0.5, 4 / (1 + 2.5)),  # one after the other
        ("a_psgd", [FAST] * 2, 0.0, 1 / 3),  # one worker: computes, sends, receives
        ("a_psgd", [FAST] * 3, 0.0, 2 / 3),
        ("a_psgd", [FAST] * 9, 0.0, 1.0),  # eight workers could make 8/3; the server's link takes one model a second
        ("a_psgd", [FAST] * 8 + [SLOW], 0.0, 0.1),
        ("a_psgd", [SLOW, FAST, 10 * FAST], 0.5, 1 / (1 + 21) + 1 / (1 + 3)),
        ("ad_psgd", [FAST, SLOW, SLOW, SLOW], 0.5, 4.0),
    ],
)
def test_in_the_head(program: str, rates: list[float], alpha_s: float, expected: float) -> None:
    assert gradients_per_s(program, rates, 1000, 1.0, alpha_s) == pytest.approx(expected)
