"""D^2 (ICML 2018): insensitive to how different the workers' data are, where D-PSGD is not.

Estimator: ratio of final losses paired by seed, median of the study's 5 seeds, fixed in advance.
"""

from pathlib import Path

import pytest

from outpace.benchmarks.studies.unequal_data import EXCLUSIVE, HIDDEN, unequal_data

pytestmark = pytest.mark.claim


@pytest.mark.parametrize("model", HIDDEN)
def test_d2_is_insensitive_to_the_split_and_d_psgd_is_not(tmp_path: Path, model: str) -> None:
    ratios = unequal_data(tmp_path, models=[model])
    for n, exclusive in EXCLUSIVE.items():
        for program in ("d2", "d_psgd"):
            assert ratios[model, n, "iid", program] == pytest.approx(1, abs=0.05)
        assert ratios[model, n, exclusive, "d2"] == pytest.approx(1, abs=0.02)
        assert ratios[model, n, exclusive, "d_psgd"] >= {5: 1.1, 10: 2.0}[n]
