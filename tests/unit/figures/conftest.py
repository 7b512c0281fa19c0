"""Traces that figures are drawn of."""

import pytest
from made_traces import SLOW, simulate


@pytest.fixture(scope="session")
def traces(tmp_path_factory):
    """Three programs with and without a slow rank, on 4 workers, and without on 2: what all figures can be drawn of."""
    folder = tmp_path_factory.mktemp("traces")
    return [
        simulate(folder / f"{algorithm}-{n}-{level}.h5", algorithm, n, stragglers)
        for algorithm in ("allreduce_sgd", "d_psgd", "ad_psgd")
        for n, level, stragglers in ((4, "equal", "none"), (4, "slow", SLOW), (2, "equal", "none"))
    ]
