"""Timelines for Perfetto and OTF2, read back and counted against the trace."""

import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_traces import paces, rounds, write_trace

from outpace.benchmarks.command import main
from outpace.benchmarks.trace import lanes, to_otf2, to_perfetto
from outpace.benchmarks.trace.run import Run
from outpace.benchmarks.trace.schema import KIND
from outpace.comm.errors import UserError

EVALUATIONS = {"t_s": [0.0, 1.0], "loss": [2.0, 0.5]}


@pytest.fixture
def gossip(tmp_path: Path) -> Path:
    """Two workers that average with each other while they compute, four times."""
    both = [event for k in range(4) for event in ((0, 1, 0.03), (1, 0, 0.02 + 0.001 * k))]
    return _evaluated(paces(tmp_path / "gossip.h5", [0.5, 0.25], exchanges=both, seconds=2))


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """Three workers and a server."""
    return _evaluated(paces(tmp_path / "served.h5", [0.51, 0.253, 0.107], waits=0.02, serving=0.001, seconds=2))


def _evaluated(path: Path) -> Path:
    import h5py

    with h5py.File(path, "a") as file:
        for name, values in EVALUATIONS.items():
            file[f"evaluations/{name}"] = np.array(values)
        rank, step, t_s, compute_s = (file[f"steps/{name}"][()] for name in ("rank", "step", "t_s", "compute_s"))
        wait_s, events = file["steps/wait_s"][()], file["events"]
        more = {"rank": rank, "kind": 0, "t_start_s": t_s - wait_s - compute_s, "t_end_s": t_s - wait_s}
        more |= {"step": step, "peer": -1, "nbytes": 0}
        pushed = events["kind"][()] != KIND["push"] if not wait_s.any() else np.ones(len(events["kind"]), bool)
        columns = {
            name: np.concatenate([events[name][()][pushed], np.broadcast_to(value, len(rank))])
            for name, value in more.items()
        }
        order = np.argsort(columns["t_start_s"], kind="stable")
        for name, values in columns.items():
            kind = events[name].dtype
            del events[name]
            events[name] = values[order].astype(kind)
    return path


def test_perfetto_has_every_event_track_and_exchange(gossip: Path, tmp_path: Path) -> None:
    from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto

    out = tmp_path / "run.pftrace"
    run, trace = Run(gossip), proto.Trace()
    assert to_perfetto.write(gossip, out) == len(run.column("events", "rank"))
    trace.ParseFromString(out.read_bytes())
    events = [packet for packet in trace.packet if packet.HasField("track_event")]
    begins = [packet for packet in events if packet.track_event.type == proto.TrackEvent.TYPE_SLICE_BEGIN]
    kinds = [name for number in run.column("events", "kind") for name, value in KIND.items() if value == number]
    assert Counter(packet.track_event.name for packet in begins) == Counter(kinds)
    assert sum(packet.track_event.type == proto.TrackEvent.TYPE_SLICE_END for packet in events) == len(begins)
    starts = sorted(1e-9 * packet.timestamp for packet in begins)
    assert starts == pytest.approx(sorted(run.column("events", "t_start_s")), abs=1e-8)

    tracks = {
        packet.track_descriptor.uuid: packet.track_descriptor
        for packet in trace.packet
        if packet.HasField("track_descriptor")
    }
    threads = {
        (track.thread.pid, track.thread.thread_name): uuid for uuid, track in tracks.items() if track.HasField("thread")
    }
    assert set(threads) == {(pid, name) for pid in (1, 2) for name in ("gradients", "communication")}
    assert {track.process.process_name for track in tracks.values() if track.HasField("process")} == {
        "rank 0",
        "rank 1",
    }
    exchanges = [packet.track_event for packet in begins if packet.track_event.name == "exchange"]
    assert {event.track_uuid for event in exchanges} == {threads[pid, "communication"] for pid in (1, 2)}
    begun = Counter(number for event in exchanges for number in event.flow_ids)
    ended = Counter(number for event in exchanges for number in event.terminating_flow_ids)
    assert begun == ended
    assert set(begun.values()) == {1}
    assert len(begun) == 4
    values = {note.name: note.int_value for note in exchanges[0].debug_annotations}
    assert values == {"step": 0, "peer": 1, "bytes": 1000}

    counted = Counter(
        packet.track_event.track_uuid for packet in events if packet.track_event.type == proto.TrackEvent.TYPE_COUNTER
    )
    names = {tracks[uuid].name: count for uuid, count in counted.items()}
    assert names == {"loss at the mean model": 2, "staleness of rank 0": 4, "staleness of rank 1": 8}


def test_slices_of_a_thread_do_not_overlap(gossip: Path, served: Path) -> None:
    """A viewer would stack them up."""
    for path in (gossip, served):
        until: dict[tuple[int, str], float] = {}
        for each in lanes.slices(Run(path)):
            assert each.start_s >= until.get((each.rank, each.thread), 0.0) - 1e-9
            until[each.rank, each.thread] = each.end_s


def test_a_message_to_a_server_is_joined_with_its_answer(served: Path) -> None:
    ends: dict[int, list[lanes.Slice]] = {}
    for each in lanes.slices(Run(served)):
        for number, second in each.flows:
            assert second == (number in ends)
            ends.setdefault(number, []).append(each)
    assert len(ends) == 3 + 7 + 18
    for worker, server in ends.values():
        assert (worker.thread, server.thread, server.peer) == ("gradients", "server", worker.rank)
        assert worker.end_s == pytest.approx(server.end_s)


def test_events_are_read_in_blocks(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same slices, whatever the size of a block, and memory for one of them alone."""
    whole = list(lanes.slices(Run(served)))
    monkeypatch.setattr(lanes, "BLOCK", 7)
    assert list(lanes.slices(Run(served))) == whole
    rows = 60_000
    columns = {name: np.arange(rows) // 4 for name in ("t_start_s", "t_end_s", "step")}
    columns |= {"rank": np.arange(rows) % 4, "kind": np.zeros(rows), "peer": -np.ones(rows), "nbytes": np.zeros(rows)}
    long = Run(write_trace(tmp_path / "long.h5", {"events": columns}, hostnames=["a"] * 4))
    monkeypatch.setattr(lanes, "BLOCK", 1000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in lanes.slices(long)) == rows
        assert tracemalloc.get_traced_memory()[1] < 8 * rows  # less than one column of seven
    finally:
        tracemalloc.stop()


def test_otf2_is_read_back_whole(gossip: Path, tmp_path: Path) -> None:
    otf2 = pytest.importorskip("otf2")
    run, found = Run(gossip), []
    assert to_otf2.write(gossip, tmp_path / "archive") == len(run.column("events", "rank"))
    with otf2.reader.open(str(tmp_path / "archive" / "traces.otf2")) as archive:
        assert archive.timer_resolution == 10**9
        for location, event in archive.events:
            if isinstance(event, otf2.events.Enter):
                values = {attribute.name: value for attribute, value in event.attributes.items()}
                found.append((event.time, location.group.name, location.name, event.region.name, values))
    expected = [
        (
            round(1e9 * each.start_s),
            f"rank {each.rank}",
            each.thread,
            each.kind,
            {"step": each.step, "peer": each.peer, "bytes": each.nbytes},
        )
        for each in lanes.slices(run)
    ]
    assert sorted(found, key=str) == sorted(expected, key=str)
    with pytest.raises(UserError, match="exists"):
        to_otf2.write(gossip, tmp_path / "archive")


def test_a_synchronous_run_has_one_thread_for_each_rank(tmp_path: Path) -> None:
    assert lanes.threads(Run(rounds(tmp_path / "run.h5", np.ones((3, 4))))) == [(r, "gradients") for r in range(3)]


def test_the_command_says_what_is_missing(gossip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--perfetto", str(gossip)]) == 2
    assert "-o OUT" in capsys.readouterr().err
    assert main(["export", "--perfetto", str(gossip), str(gossip), "-o", "run.pftrace"]) == 2
    assert "2 files" in capsys.readouterr().err
    assert main(["export", "--perfetto", str(gossip), "-o", str(tmp_path / "run.pftrace")]) == 0
