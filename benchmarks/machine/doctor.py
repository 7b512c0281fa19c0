"""`outpace doctor`: what works here, every line looked up or tried, not assumed. Runs on two ranks, or with --nodes on
one rank of each node."""

import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
from mpi4py import MPI
from rich.console import Console
from rich.table import Table

from outpace.benchmarks.machine import any_source, async_progress, buffers, launcher, provenance, shared_memory
from outpace.comm import arrays, clock, vectors
from outpace.comm.errors import UserError

DOING: Final = {"numpy": "inside NumPy", "sleep": "that sleeps", "gil": "inside C code that keeps Python's global lock"}


def examine(comm: MPI.Intracomm) -> list[tuple[str, str, str]]:
    """(subject, verdict, detail) lines; collective."""
    lines = [
        ("Python", "ok", f"{platform.python_version()}, numpy {np.__version__}"),
        ("MPI", "ok", _library()),
        ("launch", *_launch(comm)),
        ("threads", *_threads()),
        ("message", *_message(comm)),
        *_progress(comm),
        ("large messages", *_buffers(comm)),
        ("cores", *_cores(comm)),
        ("scheduler", *_scheduler()),
        ("shared memory", *_memory()),
        ("BLAS threads", *_blas()),
        ("vector passes", *_passes()),
        ("GPU", *_gpu()),
    ]
    aware = arrays.cuda_aware(comm)
    lines.append(
        (
            "CUDA-aware MPI",
            "yes" if aware else "no",
            "device arrays go to MPI directly" if aware else "GPU runs stage messages through pinned memory",
        )
    )
    return lines


def examine_nodes(comm: MPI.Intracomm) -> list[tuple[str, str, str]]:
    """The same of what lies between nodes; collective, with the same result on every rank."""
    first = any_source.hosts(comm)
    nodes = comm.bcast(0 if first == MPI.COMM_NULL else first.size)
    if first != MPI.COMM_NULL:
        first.Free()
    lines = [
        ("MPI", "ok", _library()),
        ("nodes", "ok" if nodes > 1 else "broken", f"{comm.size} rank(s) in one world, on {nodes} node(s)"),
        ("threads", *_threads()),
    ]
    if nodes > 1 and MPI.Query_thread() == MPI.THREAD_MULTIPLE:
        start = clock.now(comm)
        try:
            any_source.check(comm)
            took = f"in {clock.now(comm) - start:.2g} s"
            lines.append(("messages", "ok", f"from any source arrive in a second thread, between all nodes, {took}"))
        except UserError as error:
            lines.append(("messages", "broken", str(error)))
    return lines


def _library() -> str:
    return MPI.Get_library_version().strip("\0 \n").splitlines()[0]


def _launch(comm: MPI.Intracomm) -> tuple[str, str]:
    if comm.size == 2:
        return "ok", "2 ranks in one world"
    return "broken", f"asked for 2 ranks, got a world of {comm.size}: launcher and MPI do not match"


def _threads() -> tuple[str, str]:
    level = provenance.THREAD_LEVELS[MPI.Query_thread()]
    if level == "multiple":
        return "ok", "MPI_THREAD_MULTIPLE: asynchronous programs run"
    return "limited", f"thread level {level}: asynchronous programs are refused"


def _message(comm: MPI.Intracomm) -> tuple[str, str]:
    """A round trip that is checked; its time is that of the fastest of many."""
    if comm.size < 2 or comm.rank > 1:
        return "untested", "needs two ranks"
    sent, received = np.arange(1000.0), np.zeros(1000)
    peer, best = 1 - comm.rank, float("inf")
    for _ in range(200):
        start = clock.now(comm)
        comm.Sendrecv(sent, peer, 0, received, peer, 0)
        best = min(best, clock.now(comm) - start)
    if not np.array_equal(sent, received):
        return "broken", "a message of 8 kB arrived changed"
    return "ok", f"8 kB exchanged in {best * 1e6:.1f} us at best"


def _progress(comm: MPI.Intracomm) -> list[tuple[str, str, str]]:
    """The asynchronous-progress certificate under each load."""
    if comm.size != 2 or MPI.Query_thread() != MPI.THREAD_MULTIPLE:
        return [("progress", "untested", "needs two ranks and MPI_THREAD_MULTIPLE")]
    loads = async_progress.loads(comm)
    waits = async_progress.waits(comm, list(loads.values()), target=1, prober=0)
    limit = f"wait-free is up to {1e3 * async_progress.PROMPT_S:g} ms"
    return [
        ("progress", async_progress.verdict(wait_s), f"a rank {DOING[load]} answers in {1e3 * wait_s:.2f} ms; {limit}")
        for load, wait_s in zip(loads, waits, strict=True)
    ]


def _buffers(comm: MPI.Intracomm) -> tuple[str, str]:
    pages = buffers.touched(comm)
    told = f"an Allreduce of {buffers.PROBE >> 20} MiB touches {pages} new pages"
    if pages <= buffers.FEW:
        return "ok", f"{told}: its buffers are kept"
    return "slow", f"{told}, in every call; {buffers.VARIABLE}={buffers.TUNABLES} may keep them"


def _cores(comm: MPI.Intracomm) -> tuple[str, str]:
    cores = provenance.usable_cores()
    return (
        "ok",
        f"{cores} usable here; more ranks than that is `emulated`, and needs --compute-time for honest timings",
    )


def _scheduler(switch: Path = Path("/proc/sys/kernel/sched_autogroup_enabled")) -> tuple[str, str]:
    """Linux may share cores out to sessions first, and to the processes of each then: autogroup, sched(7)."""
    with suppress(OSError):
        if switch.read_text().strip() == "1":
            told = "cores are shared by sessions: many ranks on a core wait longer for one another"
            return "slow", f"{told}; sysctl kernel.sched_autogroup_enabled=0"
    return "ok", "cores are shared by processes"


def _memory() -> tuple[str, str]:
    return "ok" if shared_memory.enough(provenance.usable_cores()) else "small", shared_memory.room()


def _blas() -> tuple[str, str]:
    threads = os.environ.get("OMP_NUM_THREADS")
    return ("ok", "1 per rank") if threads == "1" else ("check", f"OMP_NUM_THREADS is {threads}; set it to 1")


def _passes() -> tuple[str, str]:
    if why := vectors.uncompiled("float32"):
        return "slow", f"by NumPy, which takes up to six times as long: {why}"
    return "ok", "compiled: updates and averages of models are loops in C"


def _gpu() -> tuple[str, str]:
    try:
        import cupy
    except ImportError:
        return "none", "CuPy is not installed (extra `gpu`); programs run on NumPy"
    if not cupy.cuda.is_available():
        return "none", f"CuPy {cupy.__version__} finds no GPU; programs run on NumPy"
    count = cupy.cuda.runtime.getDeviceCount()
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    return "ok", f"{count} x {name}, CuPy {cupy.__version__}"


def main() -> None:
    comm = MPI.COMM_WORLD
    launcher.report(comm.rank)
    lines = examine_nodes(comm) if sys.argv[1:] == ["--nodes"] else examine(comm)
    if comm.rank == 0:
        shown = Table(show_header=False, box=None)
        for line in lines:
            shown.add_row(*line)
        Console().print(shown)
    if sys.argv[1:] == ["--nodes"] and any(verdict == "broken" for _, verdict, _ in lines):
        MPI.Finalize()
        sys.exit(2)


if __name__ == "__main__":
    main()
    MPI.Finalize()
