"""Traces that figures are drawn of."""

import json

import pytest
from made_traces import SLOW, simulate


@pytest.fixture(scope="session")
def traces(tmp_path_factory):
    """Three programs with and without a slow rank, on 4 workers, and without on 2; and one with another batch size,
    another step size, behind links, and simulated: what all figures can be drawn of."""
    folder = tmp_path_factory.mktemp("traces")
    made = [
        simulate(folder / f"{algorithm}-{n}-{level}.h5", algorithm, n, stragglers)
        for algorithm in ("allreduce_sgd", "d_psgd", "ad_psgd")
        for n, level, stragglers in ((4, "equal", "none"), (4, "slow", SLOW), (2, "equal", "none"))
    ]
    double = {"batch_size": 64, "compute_time": 0.02}
    faster = json.dumps({"m": 25, "L": 1.0, "step_size": 0.2})
    return [
        simulate(folder / "allreduce_sgd-4-batch.h5", "allreduce_sgd", config=double),
        simulate(folder / "allreduce_sgd-4-step.h5", "allreduce_sgd", constants=faster),
        simulate(folder / "allreduce_sgd-4-linked.h5", "allreduce_sgd", links="all:rate=100mbit"),
        simulate(folder / "allreduce_sgd-4-simulated.h5", "allreduce_sgd", claim_class="simulated"),
        *made,
    ]
