"""What a run says of its snapshots before it starts."""

import shutil
from types import SimpleNamespace

import pytest
from mpi4py import MPI

from outpace.algorithms.d_psgd import Config
from outpace.benchmarks.running import storage
from outpace.benchmarks.running.plan import make_plan, parse_flags


@pytest.mark.parametrize(
    ("sizes", "flags", "capacity", "said"),
    [
        ([10**6] * 4, [], 40, None),
        ([4 * 10**6] * 3, [], 33, "--evaluations cut to 16: snapshots may take 537 MB a rank in ."),
        ([4 * 10**6] * 3, [], 33, "snapshots take 1.5 GB in the folder of run.h5, unless there is --scratch"),
        ([4 * 10**6] * 3, ["--scratch", "/tmp"], 33, "snapshots take 1.5 GB in /tmp, until the trace is written"),
    ],
)
def test_much_room_is_told_of(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sizes: list[int],
    flags: list[str],
    capacity: int,
    said: str | None,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**9))
    plan = make_plan("d_psgd", *parse_flags("d_psgd", Config, ["--out", "run.h5", *flags]), 1)
    assert storage._capacity(MPI.COMM_SELF, plan, sizes, None) == capacity
    err = capsys.readouterr().err
    assert said in err if said else err == ""


def test_forty_evaluations_of_a_large_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """25.6 million parameters in 1,000 steps, 72 GB free: 41 copies, and none is cut."""
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=72 * 10**9))
    plan = make_plan("d_psgd", *parse_flags("d_psgd", Config, ["--out", "run.h5", "--evaluations", "40"]), 1)
    assert storage._capacity(MPI.COMM_SELF, plan, [25_600_000], 1000) == 41
    assert "cut" not in capsys.readouterr().err
