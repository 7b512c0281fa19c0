"""What a parameter server costs and what it spares: traffic at the busiest rank, and no waiting for a slow worker."""

from pathlib import Path

import pytest

from outpace.benchmarks.studies.busiest_rank import DIMS, busiest_rank
from outpace.benchmarks.studies.slow_worker import slow_worker

pytestmark = pytest.mark.claim


@pytest.mark.parametrize("size", DIMS)
def test_the_servers_traffic_grows_with_n_and_gossips_does_not(tmp_path: Path, size: str) -> None:
    """In models through the busiest rank while every worker computes one gradient: n into the server of A-PSGD, 2 in
    AD-PSGD (one exchange for a worker's own gradient and one for its neighbours', on average), 2 on the ring of D-PSGD
    and D^2 with 4 workers and more, 2(n-1)/n in the ring's lower bound of an Allreduce."""
    models = busiest_rank(tmp_path, sizes=[size])
    for n in (2, 4, 8):
        assert models[size, "a_psgd", n] == pytest.approx(n, rel=0.05)
        assert models[size, "eamsgd", n] == pytest.approx(n, rel=0.05)
        assert models[size, "ad_psgd", n] < 2.5
        assert models[size, "allreduce_sgd", n] == pytest.approx(2 * (n - 1) / n, rel=0.01)
        for program in ("d_psgd", "d2"):
            assert models[size, program, n] == pytest.approx(min(2, n - 1), rel=0.01)


def test_the_others_keep_their_pace_beside_a_slow_worker(tmp_path: Path) -> None:
    """A-PSGD, 8 workers, one of them slowed 10x: within 5 % of the rate without, worker by worker."""
    ratios = slow_worker(tmp_path)
    assert ratios.pop(0) == pytest.approx(0.1, rel=0.1)
    for worker, ratio in ratios.items():
        assert ratio == pytest.approx(1, abs=0.05), f"worker {worker}"
