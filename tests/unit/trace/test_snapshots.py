"""The store of snapshots."""

import resource
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from outpace.benchmarks.trace import snapshots
from outpace.benchmarks.trace.snapshots import FOLD, SLOT_S, STAMP, Snapshots, checksum, wanted
from outpace.comm.errors import UserError
from outpace.comm.offload import Offload

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


F4 = np.dtype("f4")


def sealed(path: Path) -> Snapshots:
    """A store of 4 copies of 3 numbers, with two in it that are sealed: k, k, k after step k."""
    store = Snapshots(4, 3, F4, per_step=True, path=path)
    for k in (1, 2):
        store.offer(np.full(3, k, F4), k, 0.0)
    store.seal()
    return store


def test_snapshot_store_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "run.h5.part-0.models"
    sealed(path)
    again = Snapshots.read(path, 4, 3, F4)
    assert again.tags().tolist() == [1, 2]
    assert again[2].tolist() == [2, 2, 2]
    assert again[2].dtype == np.float64
    assert not again.damaged


def test_a_place_that_is_used_again_has_no_stamp_meanwhile(tmp_path: Path) -> None:
    """Eight steps into four places. The store on the disk has whole copies at every moment, and all when sealed."""
    path = tmp_path / "run.h5.part-0.models"
    store = sealed(path)
    for k in range(3, 9):
        store.offer(np.full(3, k, F4), k, 0.0)
        store.seal()
        found = Snapshots.read(path, 4, 3, F4)
        assert not found.damaged
        assert all(found[tag].tolist() == 3 * [tag] for tag in found.tags())
        assert found.tags().tolist() == store.tags().tolist()
    assert Snapshots.read(path, 4, 3, F4).tags().tolist() == store.tags().tolist() == [2, 4, 6, 8]


def test_any_damaged_byte_of_a_store_is_found_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "run.h5.part-0.models"
    sealed(path)
    whole = path.read_bytes()
    stride, stamps, copy = 8, 4 * STAMP.itemsize, 3 * F4.itemsize
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        at = place - stride
        found = Snapshots.read(path, 4, 3, F4)
        harmed = 0 <= at < 2 * STAMP.itemsize or stamps <= at < stamps + 2 * copy
        assert found.damaged == (1 if 0 <= at < stamps or harmed else 0)
        assert all(found[tag].tolist() == 3 * [tag] for tag in found.tags())
        assert len(found.tags()) == 2 - harmed
        assert Snapshots(4, 3, F4, True, path, due=3, stride=1).missing == harmed


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_flipped_bit_of_any_word_is_in_the_checksum(dtype: str) -> None:
    rng = np.random.default_rng(0)
    model = rng.standard_normal(2 * FOLD + 3).astype(dtype)
    words, whole = model.view(np.uint32), checksum(7, model)
    assert checksum(8, model) != whole
    for word in range(len(words)):
        words[word] ^= np.uint32(1) << np.uint32(rng.integers(32))
        assert checksum(7, model) != whole
        whole = checksum(7, model)


def test_pages_of_a_new_store_are_there_before_the_run(tmp_path: Path) -> None:
    dim = 4 * 2**18  # 4 MB, 1,024 pages of 4 KB
    store, model = Snapshots(8, dim, F4, per_step=True, path=tmp_path / "store"), np.ones(dim, F4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for k in range(1, 9):
        store.offer(model, k, 0.0)
    store.seal()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 1000


def test_what_was_thinned_out_after_a_checkpoint_is_not_missing(tmp_path: Path) -> None:
    """A checkpoint at stride 1, then a stride of 2 or 4, and no word that all of it is on the disk."""
    path = tmp_path / "run.h5.part-0.models"
    for last in range(3, 17):
        path.unlink(missing_ok=True)
        store = sealed(path)
        for k in range(3, last + 1):
            store.offer(np.full(3, k, F4), k, 0.0)
        store.seal()  # its thread would write on beside the one below
        again = Snapshots(4, 3, F4, True, path, due=3, stride=1)
        assert not again.missing, last
        for k in range(3, 17):
            again.offer(np.full(3, k, F4), k, 0.0)
        assert again.tags().tolist() == [4, 8, 12, 16]


def test_the_program_copies_into_buffers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of the store are touched by the thread behind the run; what was offered may change at once."""
    store, targets = Snapshots(8, 1000, F4, per_step=True, path=tmp_path / "models"), list[np.ndarray]()

    copy = Offload.copy

    def noting(self: Offload, source: np.ndarray, target: np.ndarray, done: Callable[[], None]) -> None:
        targets.append(target)
        copy(self, source, target, done)

    monkeypatch.setattr(Offload, "copy", noting)
    x = np.zeros(1000, F4)
    for k in range(1, 30):
        x[:] = k
        store.offer(x, k, 0.0)
    assert not any(np.shares_memory(target, store._models) for target in targets)
    assert len({target.ctypes.data for target in targets}) <= snapshots.BUFFERS
    assert store.tags().tolist() == [4, 8, 12, 16, 20, 24, 28]
    assert all((store[tag] == tag).all() for tag in store.tags())


class Counted(dict[int, np.ndarray]):
    """Rows, and how often one was written."""

    written = 0

    def __setitem__(self, row: int, model: np.ndarray) -> None:
        super().__setitem__(row, model)
        self.written += 1


def test_a_run_of_known_length_makes_few_copies() -> None:
    """Of 1,000 steps and 20 evaluations: 20 or some more, where 133 were made to keep 31."""
    rows = Counted()
    store = Snapshots(wanted(20, 1000), 2, F8, per_step=True, models=rows)
    store.expect(1000)
    for k in range(1, 1001):
        store.offer(np.zeros(2), k, 0.0)
    assert 20 <= len(store.tags()) == rows.written <= 22
    for length in range(1, 200):  # and as many as were asked for, where there are so many steps
        store = Snapshots(wanted(20, length), 2, F8, per_step=True)
        store.expect(length)
        for k in range(1, length + 1):
            store.offer(np.zeros(2), k, 0.0)
        between = store.tags()[store.tags() < length]
        assert len(between) >= min(20, length - 1), length


def test_a_cut_store_is_not_mapped(tmp_path: Path) -> None:
    path = tmp_path / "run.h5.part-0.models"
    sealed(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="has 119 bytes, where the snapshots of this run have 120"):
        Snapshots.read(path, 4, 3, F4)


def test_snapshots_go_on_where_none_was_due_yet(tmp_path: Path) -> None:
    path = tmp_path / "run.h5.part-0.models"
    Snapshots(4, 3, np.dtype("f4"), per_step=True, path=path)
    again = Snapshots(4, 3, np.dtype("f4"), True, path, due=1, stride=1)
    again.offer(np.array([1, 2, 3], dtype="f4"), 1, 0.0)
    assert again.tags().tolist() == [1]


def test_the_ranks_of_a_disk_share_a_quarter_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = SimpleNamespace(free=80 * 10**9)
    monkeypatch.setattr(snapshots.shutil, "disk_usage", lambda folder: free)
    assert snapshots.room(Path(), sharing=2, together=2) == 10**10
    assert snapshots.room(Path(), sharing=64, together=16) == 20 * 10**9 // 64
    free.free = 10**6  # what every rank may have; if that is not there either, the disk is full
    assert snapshots.room(Path(), sharing=2, together=2) == snapshots.STORE_LIMIT
    assert snapshots.room(Path(), sharing=16, together=16) == snapshots.NODE_LIMIT // 16


def test_a_folder_that_is_not_there_is_for_others_to_refuse(tmp_path: Path) -> None:
    assert snapshots.room(tmp_path / "nowhere", sharing=1, together=1) == snapshots.STORE_LIMIT
