"""A run as a Perfetto trace, for ui.perfetto.dev: a process for each rank, slices, counters, arrows of exchanges."""

from pathlib import Path
from typing import Any, Final

from outpace.benchmarks.trace import lanes
from outpace.benchmarks.trace.files import output
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

SEQUENCE: Final = 1  # all packets come from one writer
LOSS, STALENESS = 1, 2  # kinds of counters


def write(path: Path, out: Path) -> int:
    """Write the trace at `path` into `out`, block by block; the number of slices. Raises UserError, also where the
    package `perfetto` is missing."""
    try:
        from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto
        from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder
    except ImportError:
        raise UserError("--perfetto needs the package perfetto: pip install outpace[perfetto]") from None
    run = Run(path)
    with output(out) as file:
        return _Writer(run, StreamingTraceProtoBuilder(file), proto).write()


class _Writer:
    def __init__(self, run: Run, builder: Any, proto: Any) -> None:
        self._run, self._builder, self._proto = run, builder, proto
        self._of_thread = {thread: 1000 + place for place, thread in enumerate(lanes.threads(run))}  # their uuids

    def write(self) -> int:
        self._describe()
        for t_s, loss in lanes.blocks(self._run, "evaluations", ("t_s", "loss")):
            for at, value in zip(t_s.tolist(), loss.tolist(), strict=True):
                self._count(at, LOSS, value)
        for rank, t_s, staleness in lanes.blocks(self._run, "steps", ("rank", "t_s", "staleness")):
            for of_rank, at, value in zip(rank.tolist(), t_s.tolist(), staleness.tolist(), strict=True):
                self._count(at, self._counter(of_rank), value)
        count = 0
        for each in lanes.slices(self._run):
            self._slice(each)
            count += 1
        return count

    def _counter(self, rank: int) -> int:
        return 1_000_000 + rank

    def _describe(self) -> None:
        """The tracks: of each rank a process with its threads and its staleness, and the loss above all."""
        n = self._run.attrs["n_workers"]
        packet = self._builder.create_packet()
        self._describe_counter(packet.track_descriptor, LOSS, "loss at the mean model")
        self._send(packet)
        for (rank, thread), uuid in self._of_thread.items():
            packet = self._builder.create_packet()
            track = packet.track_descriptor
            track.uuid = uuid
            track.thread.pid, track.thread.tid, track.thread.thread_name = rank + 1, uuid, thread
            self._send(packet)
            if thread == lanes.BESIDE:
                continue
            packet = self._builder.create_packet()
            track = packet.track_descriptor
            track.uuid = 2_000_000 + rank
            track.process.pid = rank + 1
            track.process.process_name = f"rank {rank}" if rank < n else f"rank {rank}, server"
            self._send(packet)
            if rank < n:
                packet = self._builder.create_packet()
                self._describe_counter(packet.track_descriptor, self._counter(rank), f"staleness of rank {rank}")
                packet.track_descriptor.parent_uuid = track.uuid
                self._send(packet)

    def _describe_counter(self, track: Any, uuid: int, name: str) -> None:
        track.uuid, track.name = uuid, name
        track.counter.unit = self._proto.CounterDescriptor.UNIT_COUNT

    def _count(self, at_s: float, uuid: int, value: float) -> None:
        packet = self._at(at_s)
        event = packet.track_event
        event.type, event.track_uuid = self._proto.TrackEvent.TYPE_COUNTER, uuid
        event.double_counter_value = value
        self._send(packet)

    def _slice(self, of: lanes.Slice) -> None:
        packet = self._at(of.start_s)
        event = packet.track_event
        uuid = event.track_uuid = self._of_thread[of.rank, of.thread]
        event.type, event.name = self._proto.TrackEvent.TYPE_SLICE_BEGIN, of.kind
        for number, ends in of.flows:
            (event.terminating_flow_ids if ends else event.flow_ids).append(number)
        for name, value in (("step", of.step), ("peer", of.peer), ("bytes", of.nbytes)):
            event.debug_annotations.add(name=name, int_value=value)
        self._send(packet)
        packet = self._at(of.end_s)
        packet.track_event.type, packet.track_event.track_uuid = self._proto.TrackEvent.TYPE_SLICE_END, uuid
        self._send(packet)

    def _at(self, seconds: float) -> Any:
        packet = self._builder.create_packet()
        packet.timestamp = max(0, round(1e9 * seconds))
        return packet

    def _send(self, packet: Any) -> None:
        packet.trusted_packet_sequence_id = SEQUENCE
        self._builder.write_packet(packet)
