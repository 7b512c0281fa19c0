"""Recording, part files, snapshots and the merge, in one process."""

import json
import os
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from mpi4py import MPI

from outpace.benchmarks.running.recovery import recover
from outpace.benchmarks.trace import archive, parts
from outpace.benchmarks.trace.archive import Parts, evaluation_times
from outpace.benchmarks.trace.inspection import summary, validate
from outpace.benchmarks.trace.parts import Part, read_part
from outpace.benchmarks.trace.recorder import STEPS, Trace
from outpace.benchmarks.trace.run import Run
from outpace.benchmarks.trace.schema import KIND
from outpace.benchmarks.trace.snapshots import SLOT_S, Snapshots, capacity
from outpace.comm.clock import Offset
from outpace.comm.errors import UserError

COMM = MPI.COMM_SELF
GOLDEN = Path(__file__).parents[1] / "golden" / "trace-v1.h5"
F8 = np.dtype("f8")


def recorder() -> Trace:
    trace = Trace(COMM, Snapshots(0, 3, F8, per_step=True))
    trace.start(0.0)
    return trace


def written(path: Path, rank: int, steps: list[tuple[float, float]], **header: Any) -> None:
    """A part whose steps are (read_s, t_s)."""
    part = Part(path, rank, {"rank": rank, **header})
    rows = np.zeros(len(steps), dtype=STEPS)
    for k, (read_s, t_s) in enumerate(steps):
        rows[k] = (k, t_s, read_s, 0.1, 0.0, 0.0, 0, 4)
    part.append("steps", rows.tobytes())
    part.close()


def test_phases_and_rows() -> None:
    trace = recorder()
    trace.computed(1.0, 1.5, 1.75, 16)
    with trace.phase("allreduce", nbytes=8):
        time.sleep(0.01)
    with trace.phase("exchange", 3, 24, background=True):
        time.sleep(0.02)
    trace.record()
    trace.computed(2.0, 2.5, 2.5, 16)
    trace.record(read_s=1.9, local_writes=2)
    drained = {table: np.frombuffer(data, parts.TABLES[table]) for table, data in trace.drain().items()}
    rows, events = drained["steps"], drained["events"]
    assert rows["step"].tolist() == [0, 1]
    assert rows["compute_s"].tolist() == [0.5, 0.5]
    assert rows["injected_s"].tolist() == [0.25, 0.0]
    assert 0.01 <= rows["wait_s"][0] < 0.02  # the background phase is not the loop's
    assert rows["wait_s"][1] == 0
    assert np.isnan(rows["read_s"][0])
    assert rows["local_writes"].tolist() == [0, 2]
    kinds = [KIND[name] for name in ("compute", "inject", "allreduce", "exchange", "compute")]
    assert events["kind"].tolist() == kinds
    assert events["peer"].tolist() == [-1, -1, -1, 3, -1]
    assert events["step"].tolist() == [0, 0, 0, 0, 1]


def test_recording_is_cheap() -> None:
    """Under 10 us per call on this machine, most of a microsecond each: no file and no HDF5 in the loop."""
    trace, x = recorder(), np.zeros(3)
    start = time.process_time()
    for _ in range(5000):
        trace.computed(0.0, 1.0, 2.0, 1)
        with trace.phase("exchange", 1, 8):
            pass
        trace.snapshot(x)
        trace.record()
    assert (time.process_time() - start) / 5000 < 40e-6  # four calls


@pytest.mark.parametrize("cut", [0, 1, 7, 16, 17, 70, 100, 163])
def test_torn_part_keeps_whole_records(tmp_path: Path, cut: int) -> None:
    """A part cut anywhere in its last blocks reads as its whole records; nothing before them is lost."""
    target = tmp_path / "run.h5"
    part = Part(target, 0, {"rank": 0, "pid": 7})
    rows = np.zeros(3, dtype=STEPS)
    rows["step"] = [0, 1, 2]
    part.append("steps", rows[:1].tobytes())
    whole = part.path.stat().st_size
    part.append("steps", rows[1:].tobytes())
    part.close()
    os.truncate(part.path, whole + cut)
    (segment,) = read_part(part.path)
    assert segment.header == {"rank": 0, "pid": 7}
    after_header = max(0, cut - parts._BLOCK.size)
    assert segment.table("steps")["step"].tolist() == list(range(1 + after_header // 64))


def test_part_without_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.h5.part-0"
    path.write_bytes(b"not a part at all, whatever it is")
    with pytest.raises(UserError, match="not a part of a trace"):
        read_part(path)


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


def test_capacity_shrinks_with_the_model() -> None:
    assert capacity(20, 1000, np.dtype("f4")) == 40
    assert capacity(20, 10**7, np.dtype("f4")) == 12  # 40 MB each, 512 MB in all
    assert capacity(20, 10**8, np.dtype("f4")) == 0


def test_staleness_counts_gradients_applied_between(tmp_path: Path) -> None:
    """Worked by hand: worker 0 applies at 1, 4, 9; worker 1 reads at 0.5 and applies at 5 (1 and 4 lie between)."""
    target = tmp_path / "run.h5"
    for rank, steps in enumerate([[(0.0, 1.0), (1.0, 4.0), (4.5, 9.0)], [(0.5, 5.0), (5.0, 8.0)]]):
        written(target, rank, steps, ranks=2, started_s=0.0)
    columns = Parts.read(target).steps()
    assert columns["t_s"].tolist() == [1.0, 4.0, 5.0, 8.0, 9.0]
    assert columns["rank"].tolist() == [0, 0, 1, 1, 0]
    assert columns["staleness"].tolist() == [0, 0, 2, 0, 2]


def test_times_are_on_the_clock_of_rank_0(tmp_path: Path) -> None:
    """Rank 1's clock is 100 s ahead and drifts by one second in a thousand."""
    target = tmp_path / "run.h5"
    written(target, 0, [(np.nan, 11.0)], ranks=2, started_s=10.0)
    part = Part(target, 1, {"rank": 1})
    part.append_offset(Offset(110.0, -100.0, 1e-5))
    row = np.zeros(1, dtype=STEPS)
    row[0] = (0, 610.0, np.nan, 0, 0, 0, 0, 1)
    part.append("steps", row.tobytes())
    part.append_offset(Offset(1110.0, -101.0, 3e-5))
    part.close()
    parts = Parts.read(target)
    assert parts.steps()["t_s"].tolist() == pytest.approx([1.0, 610 - 100.5 - 10])
    clock = parts.clock()
    assert clock["drift"].tolist() == pytest.approx([0.0, -1e-3])
    assert clock["uncertainty_s"].tolist() == [0.0, 3e-5]


def test_evaluation_times() -> None:
    """Synchronous: when the last rank had made that step. Asynchronous: that moment, with what was used by then."""
    steps = {
        "step": np.array([0, 0, 1, 1]),
        "t_s": np.array([0.010, 0.012, 0.020, 0.025]),
        "samples": np.array([4, 4, 4, 4]),
    }
    t_s, samples = evaluation_times(steps, np.array([1, 2]), per_step=True, n=2)
    assert t_s.tolist() == [0.012, 0.025]
    assert samples.tolist() == [8, 16]
    t_s, samples = evaluation_times(steps, np.array([5, 12, 24]), per_step=False, n=2)
    assert t_s.tolist() == pytest.approx([0.005, 0.012, 0.024])
    assert samples.tolist() == [0, 8, 12]


def test_missing_part_is_named(tmp_path: Path) -> None:
    target = tmp_path / "run.h5"
    written(target, 0, [], ranks=2)
    with pytest.raises(UserError, match="part-1: No such file"):
        Parts.read(target)


def test_nothing_to_recover(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no parts of a killed run"):
        list(recover(tmp_path))


def test_runs_that_go_on_are_not_recovered(tmp_path: Path) -> None:
    """An open part is another process's: of a run that lives. Its files stay as they are, and so does its name."""
    target = tmp_path / "run.h5"
    part = Part(target, 0, {"rank": 0, "ranks": 1})
    assert parts.running(target)
    with pytest.raises(UserError, match="no parts of a killed run here; 1 run"):
        list(recover(tmp_path))
    with pytest.raises(FileExistsError):
        Part(target, 0, {"rank": 0, "ranks": 1})
    with pytest.raises(BlockingIOError, match="another run writes its parts"):
        Part(target, 0, {"rank": 0, "ranks": 1}, after=part.nbytes)
    assert read_part(part.path)[0].header == {"rank": 0, "ranks": 1}
    part.close()
    assert not parts.running(target)


def test_one_damaged_run_does_not_keep_the_others_from_recovery(tmp_path: Path) -> None:
    for name in ("a", "c"):
        (tmp_path / f"{name}.h5.part-0").write_bytes(b"not a part")
    written(tmp_path / "b.h5", 0, [], ranks=2)
    found = recover(tmp_path)
    with pytest.raises(UserError, match=r"a\.h5\.part-0: not a part.*b\.h5\.part-1: No such file.*c\.h5\.part-0"):
        next(found)


def test_a_part_shorter_than_its_checkpoint_is_refused(tmp_path: Path) -> None:
    """After a power cut: filled up with zeros, it would hold rows of nothing."""
    target = tmp_path / "run.h5"
    part = Part(target, 0, {"rank": 0})
    nbytes = part.nbytes
    part.close()
    os.truncate(part.path, nbytes - 1)
    with pytest.raises(OSError, match="shorter than its checkpoint says"):
        Part(target, 0, {"rank": 0}, after=nbytes)
    assert part.path.stat().st_size == nbytes - 1


def test_damage_anywhere_is_a_user_error(tmp_path: Path) -> None:
    """A byte turned over, which may be one that nothing depends on; HDF5 raises this and that for others."""
    whole, path = GOLDEN.read_bytes(), tmp_path / "damaged.h5"
    refused = 0
    for position in np.random.default_rng(0).choice(len(whole), 60, replace=False):
        content = bytearray(whole)
        content[position] ^= 0xFF
        path.write_bytes(content)
        try:
            validate(path)
            summary(Run(path))
        except UserError:
            refused += 1
    assert refused


def test_attributes_of_thousands_of_ranks(tmp_path: Path) -> None:
    target, hosts = tmp_path / "run.h5", [f"node{rank:05}.cluster.example" for rank in range(5000)]
    attributes = {"n_workers": 1, "n_total": 4, "n_samples": [4], "hostnames": hosts}
    attributes |= {"claim_class": "measured", "started_utc": ""}
    written(target, 0, [(np.nan, 1.0)], ranks=1, started_s=0.0, per_step=True, labels=[], attributes=attributes)
    losses = {name: np.zeros(1) for name in ("loss", "gradient_norm", "consensus")}
    archive.merge(target, {}, np.empty(0, dtype=np.int64), losses, np.zeros(1), ended=False)
    with h5py.File(target) as file:
        assert list(file.attrs["hostnames"]) == hosts


def test_snapshots_go_on_where_none_was_due_yet(tmp_path: Path) -> None:
    path = tmp_path / "run.h5.part-0.models"
    Snapshots(4, 3, np.dtype("f4"), per_step=True, path=path)
    again = Snapshots(4, 3, np.dtype("f4"), True, path, due=1, stride=1)
    again.offer(np.array([1, 2, 3], dtype="f4"), 1, 0.0)
    assert again.tags().tolist() == [1]


def test_full_disk_is_an_error(tmp_path: Path) -> None:
    part = Part(tmp_path / "run.h5", 0, {"rank": 0})
    with open("/dev/full", "wb", buffering=0) as full:
        part._file, kept = full, part._file
        with pytest.raises(OSError, match="No space left"):
            part.append("json", json.dumps({"a": 1}).encode())
        kept.close()
