"""The store of snapshots."""

from pathlib import Path

import numpy as np
import pytest

from outpace.benchmarks.trace.snapshots import SLOT_S, Snapshots, capacity

F8 = np.dtype("f8")


@pytest.mark.parametrize("steps", [1, 7, 8, 9, 100, 1000, 12345])
def test_snapshots_of_any_budget(steps: int) -> None:
    """Between half and all of the capacity in the end, evenly spaced, each the model after that many steps."""
    store = Snapshots(8, 2, F8, per_step=True)
    for k in range(steps + 1):  # offered before write k + 1: k steps have been taken
        store.offer(np.full(2, float(k)), k, 0.0)
    tags = store.tags()
    assert min(steps, 4) <= len(tags) <= 8
    assert len(set(np.diff([0, *tags]))) == 1
    for tag in tags:
        assert store[tag].tolist() == [tag, tag]


def test_snapshots_in_time_are_the_model_at_that_moment() -> None:
    """Offers come late and rarely. What a moment keeps is the model before the first write after it."""
    store = Snapshots(64, 1, F8, per_step=False)
    writes = [0.0, 0.0105, 0.0121, 0.0302]  # the model is i from write i to write i + 1
    for i, seconds in enumerate([*writes[1:], 0.0351]):
        store.offer(np.array([float(i)]), 0, seconds)
    for tag in store.tags():
        assert store[tag][0] == np.searchsorted(writes, tag * SLOT_S, "right") - 1
    assert store.tags().tolist() == list(range(1, 36))


def test_snapshot_store_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "run.h5.part-0.models"
    store = Snapshots(4, 3, np.dtype("f4"), per_step=True, path=path)
    store.offer(np.array([1, 2, 3], dtype="f4"), 1, 0.0)
    del store
    again = Snapshots.read(path, 4, 3, np.dtype("f4"))
    assert again.tags().tolist() == [1]
    assert again[1].tolist() == [1, 2, 3]
    assert again[1].dtype == np.float64


def test_snapshots_go_on_where_none_was_due_yet(tmp_path: Path) -> None:
    path = tmp_path / "run.h5.part-0.models"
    Snapshots(4, 3, np.dtype("f4"), per_step=True, path=path)
    again = Snapshots(4, 3, np.dtype("f4"), True, path, due=1, stride=1)
    again.offer(np.array([1, 2, 3], dtype="f4"), 1, 0.0)
    assert again.tags().tolist() == [1]


def test_capacity_shrinks_with_the_model() -> None:
    assert capacity(20, 1000, np.dtype("f4")) == 40
    assert capacity(20, 10**7, np.dtype("f4")) == 12  # 40 MB each, 512 MB in all
    assert capacity(20, 10**8, np.dtype("f4")) == 0
