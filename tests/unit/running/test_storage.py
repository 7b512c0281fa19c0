"""What a run says of its snapshots before it starts."""

import pytest
from mpi4py import MPI

from outpace.algorithms.d_psgd import Config
from outpace.benchmarks.running import storage
from outpace.benchmarks.running.plan import make_plan, parse_flags


@pytest.mark.parametrize(
    ("sizes", "flags", "capacity", "said"),
    [
        ([10**6] * 4, [], 40, None),
        ([4 * 10**6] * 3, [], 32, "--evaluations cut to 16: snapshots are limited to 512 MB a rank and 4 GB a node"),
        ([4 * 10**6] * 3, [], 32, "snapshots take 1.4 GB in the folder of run.h5, unless there is --scratch"),
        ([4 * 10**6] * 3, ["--scratch", "/tmp"], 32, "snapshots take 1.4 GB in /tmp, until the trace is written"),
    ],
)
def test_much_room_is_told_of(
    capsys: pytest.CaptureFixture[str], sizes: list[int], flags: list[str], capacity: int, said: str | None
) -> None:
    plan = make_plan("d_psgd", *parse_flags("d_psgd", Config, ["--out", "run.h5", *flags]), 1)
    assert storage._capacity(MPI.COMM_SELF, plan, sizes) == capacity
    err = capsys.readouterr().err
    assert said in err if said else err == ""
