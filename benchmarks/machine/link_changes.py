"""Shared networks: when the links' rates change, and the helper that changes them while a run goes on.

The helper lives in the namespaces of `namespaces`, and waits at a socket there. Rank 0 tells it when the timed part
starts, by `begin`, and asks it now and then for what it has done. Seed and rank alone decide on the changes, so every
program meets the same ones. Until `begin` all links have their full rate.
"""

import heapq
import itertools
import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

from numpy.random import default_rng  # as np.random it would be loaded at the first change

from outpace.benchmarks.machine import links, namespaces
from outpace.benchmarks.machine.links import Shared
from outpace.comm.streams import LINKS

Row = tuple[int, float, float]  # rank, seconds since the start, bytes per second from then on
DEAF_TO: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)  # the ranks may need it for their end


def changes(spec: Shared, seed: int, rank: int, start_s: float = 0.0) -> Iterator[tuple[float, float]]:
    """Seconds since the start of the run, and the bytes per second of the rank's link from then on, without end: first
    what it has at `start_s`, then every change.

    The link is slow for `fraction` of each period; where a period of a rank begins is uniform.
    """
    full = spec.of_rank(rank) / 8
    slow = spec.share * full
    phase = default_rng([LINKS, seed, rank]).random() * spec.period
    first = math.floor((start_s - phase) / spec.period)
    slow_at_first = start_s < phase + (first + spec.fraction) * spec.period
    yield start_s, slow if slow_at_first else full
    for period in itertools.count(first):
        for since, rate in ((period, slow), (period + spec.fraction, full)):
            at = phase + since * spec.period
            if at > start_s:
                yield at, rate


class Changes:
    """Links that change from now on, in a run that started at `t0` on CLOCK_MONOTONIC. By one process, once a job."""

    def __init__(self, seed: int, t0: float) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(namespaces.CHANGES)
        self._answers = self._connection.makefile()
        self._ask([seed, t0])

    def read(self) -> list[Row]:
        """Those that were made since the last call, at the time when both ends of the link had the new rate."""
        return [(rank, t_s, rate) for rank, t_s, rate in self._ask(None)]

    def close(self) -> None:
        """End the changes, and wait for one that is being made: links stay as they are."""
        self._connection.shutdown(socket.SHUT_WR)
        self._answers.read()
        self._answers.close()
        self._connection.close()

    def _ask(self, request: object) -> list[Row]:
        self._connection.sendall(json.dumps(request).encode() + b"\n")
        answer = self._answers.readline()
        if not answer:
            raise RuntimeError("the process that changes the links has ended")
        rows: list[Row] = json.loads(answer)
        return rows


def serve(connection: socket.socket, spec: Shared, ranks: int, change: Callable[[int, float], None]) -> None:
    """The helper's side of `Changes`, by `change(rank, bytes_per_s)`, until the other side closes."""
    with connection, connection.makefile() as requests:
        seed, t0 = json.loads(requests.readline())
        start_s = time.monotonic() - t0
        connection.sendall(b"[]\n")
        log: list[Row] = []
        for at_s, rank, rate in heapq.merge(*(_of_rank(spec, seed, rank, start_s) for rank in range(ranks))):
            while select.select([connection], [], [], max(0.0, t0 + at_s - time.monotonic()))[0]:
                if not requests.readline():
                    return
                connection.sendall(json.dumps(log).encode() + b"\n")
                log.clear()
            change(rank, rate)
            log.append((rank, time.monotonic() - t0, rate))


def _of_rank(spec: Shared, seed: int, rank: int, start_s: float) -> Iterator[tuple[float, int, float]]:
    return ((at_s, rank, rate) for at_s, rate in changes(spec, seed, rank, start_s))


class Tc:
    """A tc that takes one line after the other, in a network namespace; a new one each time would cost 2 ms of a core.

    `change` starts to give a device another bucket, `wait` is over when it has it.
    """

    def __init__(self, *options: str) -> None:
        line = ["tc", *options, "-batch", "-"]
        process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin
        assert process.stdout
        self._process, self._orders, self._said = process, process.stdin, process.stdout

    def change(self, device: str, where: str, bucket: str) -> None:
        self._orders.write(f"qdisc change dev {device} {where} {bucket}\nqdisc show dev {device}\n")
        self._orders.flush()

    def wait(self) -> None:
        for line in self._said:
            if line.startswith("qdisc tbf"):
                return
        raise RuntimeError("tc has ended")


def main() -> None:
    """The helper: SPEC RANKS, and as its input the socket at which it waits."""
    for number in DEAF_TO:
        signal.signal(number, signal.SIG_IGN)
    os.nice(-20)  # to be on time beside ranks that never sleep
    text, ranks = sys.argv[1], int(sys.argv[2])
    spec = links.parse(text)
    assert isinstance(spec, Shared)
    switch, ends = Tc(), [Tc("-n", f"rank{rank + 1}") for rank in range(ranks)]
    # Always the bucket of the full rate: what is in a queue already would never get through a smaller one.
    nbytes = namespaces.burst(spec.of_rank(0))

    def change(rank: int, bytes_per_s: float) -> None:
        bucket = namespaces.bucket(8 * bytes_per_s, nbytes)
        switch.change(f"port{rank + 1}", "root", bucket)
        ends[rank].change("eth0", namespaces.below_delay(spec), bucket)
        switch.wait()
        ends[rank].wait()

    with socket.socket(fileno=0) as listener:
        connection, _ = listener.accept()
    serve(connection, spec, ranks, change)


if __name__ == "__main__":
    main()
