"""Recording the steps of one rank."""

import sys
import threading
import time

import numpy as np
from made_traces import recorder
from mpi4py import MPI

from outpace.benchmarks.trace import parts
from outpace.benchmarks.trace.recorder import EVENTS
from outpace.benchmarks.trace.schema import KIND

COMM = MPI.COMM_SELF
F8 = np.dtype("f8")


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
    lasted = events["t_end_s"] - events["t_start_s"]
    assert rows["wait_s"][0] == lasted[2] >= 0.01  # the background phase is not the loop's
    assert rows["wait_s"][1] == 0
    assert np.isnan(rows["read_s"][0])
    assert rows["local_writes"].tolist() == [0, 2]
    kinds = [KIND[name] for name in ("compute", "inject", "allreduce", "exchange", "compute")]
    assert events["kind"].tolist() == kinds
    assert events["peer"].tolist() == [-1, -1, -1, 3, -1]
    assert events["step"].tolist() == [0, 0, 0, 0, 1]


def test_nothing_is_lost_between_threads() -> None:
    """Two threads record until a third has drained a thousand times: every row comes once, and whole."""
    trace, drained, ended = recorder(), [], threading.Event()
    counts, interval = [0, 0], sys.getswitchinterval()

    def record(number: int) -> None:
        while not ended.is_set():
            with trace.phase("exchange", peer=2 * counts[number] + number):
                counts[number] += 1

    threads = [threading.Thread(target=record, args=[number]) for number in (0, 1)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        while len(drained) < 1000:
            if rows := trace.drain()["events"]:
                drained.append(rows)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    drained.append(trace.drain()["events"])
    peers = np.frombuffer(b"".join(drained), EVENTS)["peer"]
    for number, count in enumerate(counts):
        assert peers[peers % 2 == number].tolist() == list(range(number, 2 * count, 2))


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
