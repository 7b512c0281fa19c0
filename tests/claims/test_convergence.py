"""With equal workers AD-PSGD converges per epoch like AllReduce-SGD."""

import statistics
from collections.abc import Callable

import numpy as np
import pytest
from harness import shares
from reference import Batches, start

from outpace.algorithms import d_psgd
from outpace.benchmarks.trace.run import Run

pytestmark = pytest.mark.claim
FLAGS = ("--problem", "digits", "--step-size", 0.2, "--epochs", 40, "--compute-time", 0.003)


@pytest.mark.parametrize("n", [4, 8])
def test_final_loss_like_allreduce(launch: Callable[..., Run], n: int) -> None:
    """Digits, multilayer perceptron, 40 epochs, 5 seeds: the median of the paired ratios of final losses."""
    ratios = []
    for seed in range(5):
        losses = [launch(name, n, *FLAGS, "--seed", seed).final_loss() for name in ("ad_psgd", "allreduce_sgd")]
        ratios.append(losses[0] / losses[1])
    print(f"n = {n}: AD-PSGD / AllReduce-SGD final loss {statistics.median(ratios):.3f} of {np.round(ratios, 3)}")
    assert 0.93 <= statistics.median(ratios) <= 1.07


@pytest.mark.parametrize("n", [4, 8])
def test_without_gossip_it_would_not(launch: Callable[..., Run], n: int) -> None:
    """The control: n workers that never average, their mean model evaluated, in one process."""
    everyone = shares("digits", n)
    cfg = d_psgd.Config(dtype="float64")
    X, batches = start(everyone), Batches(everyone, cfg)
    for _ in range(round(40 * everyone[0].n_total / (n * cfg.batch_size))):
        X -= cfg.step_size * batches.gradients(X)
    alone = np.mean([share.loss(X.mean(axis=0)) for share in everyone])
    ratio = alone / launch("allreduce_sgd", n, *FLAGS).final_loss()
    print(f"n = {n}: without gossip {ratio:.2f} times AllReduce-SGD's final loss")
    assert ratio > 1.5
