"""Networks on real images: the programs reach one accuracy, and so does D^2 where workers hold different classes.

Estimators: the accuracy on the held-out images in the median of the study's 3 seeds, and the difference of accuracies
paired by seed in their median, fixed in advance. These take torch and Fashion-MNIST, and long:
`.venv-models/bin/pytest -m claim -o faulthandler_timeout=0 tests/claims/test_networks.py`.
"""

import importlib.util
from pathlib import Path

import pytest
from networks import FASHION

from outpace.benchmarks.studies.networks import PROGRAMS, fashion
from outpace.benchmarks.studies.unequal_data import EXCLUSIVE, unequal_images

pytestmark = [
    pytest.mark.claim,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the extra torch"),
    pytest.mark.skipif(not FASHION.exists(), reason="needs Debian's package dataset-fashion-mnist"),
]


def test_three_programs_reach_one_accuracy(tmp_path: Path) -> None:
    accuracies = fashion(tmp_path)
    assert accuracies.keys() == {*PROGRAMS}
    assert min(accuracies.values()) >= 0.88
    assert max(accuracies.values()) - min(accuracies.values()) <= 0.005


def test_d2_reaches_it_with_classes_of_ones_own(tmp_path: Path) -> None:
    _, apart = unequal_images(tmp_path)[EXCLUSIVE[5], "d2"]
    assert abs(apart) <= 0.01
