"""What runs take beside the same by hand, where no `outpace micro` tells: `python tests/floors.py PART [REPETITIONS]`.

    launches    the shortest run of two ranks, and one of digits, beside an mpi4py program that does nothing
    snapshots   1,000 steps of a million numbers with the default --evaluations, beside one evaluation
    crowd       gradients/s of 32 workers that sleep 5 ms for each, beside loops by hand in mpi4py

Kinds take turns; what is told are medians, and with them the ratio to the first kind or to the same by hand, with its
quartiles. `crowd` has more ranks than cores: what its loops cost is what keeps the others from theirs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.trace.run import Run

BIN = Path(sys.executable).parent
WORKERS, COMPUTE_S, STEPS, BATCH, DIM = 32, 5e-3, 1000, 16, 4810  # of the crowd; steps are those of a worker
GAMMA = np.float32(0.2)
Kinds = dict[str, Callable[[], float]]


def launches(folder: Path) -> Kinds:
    """Seconds from outside."""

    def bare() -> float:
        return _seconds("mpiexec", "-n", "2", sys.executable, "-m", "mpi4py", "-c", "from mpi4py import MPI")

    def run(problem: str, *flags: str) -> float:
        return _seconds("outpace", *_run("allreduce_sgd", 2, problem, folder, *flags))

    short = "--epochs", "0.1"
    return {
        "bare": bare,
        "quadratic": lambda: run("quadratic:dim=100", *short),
        "digits": lambda: run("digits", *short),
    }


def snapshots(folder: Path) -> Kinds:
    """Seconds of the timed part."""

    def run(*flags: str) -> float:
        problem = f"quadratic:dim=1000000,samples={2 * BATCH * STEPS}"
        _seconds("outpace", *_run("allreduce_sgd", 2, problem, folder, "--epochs", "1", *flags))
        return float(Run(folder / "run.h5").column("steps", "t_s").max())

    return {"one evaluation": lambda: run("--evaluations", "1"), "by default": run}


def crowd(folder: Path) -> Kinds:
    """Seconds of a gradient of each worker."""

    def ours(program: str) -> float:
        ranks = WORKERS + (program == "a_psgd")
        problem = f"quadratic:dim={DIM},samples={WORKERS * BATCH * STEPS}"
        flags = "--epochs", "1", "--compute-time", f"{COMPUTE_S:g}", "--evaluations", "1"
        _seconds("outpace", *_run(program, ranks, problem, folder, *flags))
        return WORKERS * BATCH / Run(folder / "run.h5").samples_per_s()

    def by_hand(program: str) -> float:
        ranks = WORKERS + (program == "a_psgd")
        mpi = "mpiexec", "-n", str(ranks), sys.executable, "-m", "mpi4py", __file__, "by-hand", program
        return float(_output(*mpi))

    kinds: Kinds = {"the sleep": lambda: COMPUTE_S}
    for program in ("allreduce_sgd", "d_psgd", "a_psgd", "ad_psgd"):
        kinds[f"{program}, by hand"] = lambda program=program: by_hand(program)  # type: ignore[misc]
        kinds[program] = lambda program=program: ours(program)  # type: ignore[misc]
    return kinds


def by_hand(program: str) -> None:
    """The program's loop as one writes it, in blocking calls; prints the seconds of a gradient of each worker."""
    comm = MPI.COMM_WORLD
    x, g, r = (np.zeros(DIM, np.float32) for _ in range(3))
    comm.Barrier()
    start = time.monotonic()
    for _ in LOOPS[program](comm, x, g, r):
        time.sleep(COMPUTE_S)  # the gradient
    comm.Barrier()
    if comm.rank == 0:
        print((time.monotonic() - start) / STEPS)


def _allreduce_sgd(comm: MPI.Intracomm, x: Any, g: Any, r: Any) -> Iterator[None]:
    for _ in range(STEPS):
        yield
        comm.Allreduce(MPI.IN_PLACE, g)
        x -= GAMMA / np.float32(comm.size) * g


def _d_psgd(comm: MPI.Intracomm, x: Any, g: Any, r: Any) -> Iterator[None]:
    beside = _beside(comm)
    graph, heard = comm.Create_dist_graph_adjacent(beside, beside), np.zeros((2, DIM), np.float32)
    for _ in range(STEPS):
        request = graph.Ineighbor_allgather(x, heard)
        yield
        request.Wait()
        x[:] = (x + heard[0] + heard[1]) / np.float32(3) - GAMMA * g
    graph.Free()


def _a_psgd(comm: MPI.Intracomm, x: Any, g: Any, r: Any) -> Iterator[None]:
    server, status = comm.size - 1, MPI.Status()
    if comm.rank < server:
        for _ in range(STEPS):
            yield
            comm.Send(g, server)
            comm.Recv(x, server)
        return
    for _ in range(STEPS * server):
        comm.Recv(g, MPI.ANY_SOURCE, 0, status)
        x -= GAMMA / np.float32(server) * g
        comm.Send(x, status.source)


def _ad_psgd(comm: MPI.Intracomm, x: Any, g: Any, r: Any) -> Iterator[None]:
    """Averagings with both neighbours in turn, in a thread, one for each gradient."""
    lock, due, s, apart = threading.Lock(), threading.Semaphore(0), np.zeros_like(x), comm.Dup()

    def average() -> None:
        for k in range(STEPS):
            due.acquire()
            peer = _beside(comm)[(comm.rank + k) % 2]
            with lock:
                np.multiply(x, np.float32(0.5), out=s)
            apart.Sendrecv(s, peer, 0, r, peer, 0)
            with lock:
                np.add(x, r - s, out=x)

    averaging = threading.Thread(target=average)
    averaging.start()
    for _ in range(STEPS):
        yield
        with lock:
            np.subtract(x, GAMMA * g, out=x)
        due.release()
    averaging.join()
    apart.Free()


LOOPS = {"allreduce_sgd": _allreduce_sgd, "d_psgd": _d_psgd, "a_psgd": _a_psgd, "ad_psgd": _ad_psgd}


def _beside(comm: MPI.Intracomm) -> list[int]:
    """The neighbours on the ring, an even rank's right one first."""
    return [(comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size]


def _run(program: str, ranks: int, problem: str, folder: Path, *flags: str) -> tuple[str, ...]:
    trace = str(folder / "run.h5")
    return "run", program, "-n", str(ranks), "--problem", problem, *flags, "--out", trace, "--overwrite"


def _seconds(program: str, *arguments: str) -> float:
    start = time.monotonic()
    _output(program, *arguments)
    return time.monotonic() - start


def _output(program: str, *arguments: str) -> str:
    """With our modules compiled beforehand, as those of an installed package are."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run([BIN / program, *arguments], check=True, capture_output=True, text=True, env=env).stdout


def main() -> None:
    if sys.argv[1:2] == ["by-hand"]:
        by_hand(sys.argv[2])
        return
    parts = {"launches": launches, "snapshots": snapshots, "crowd": crowd}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=parts)
    parser.add_argument("repetitions", type=int, nargs="?", default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kinds = parts[options.part](Path(folder))
        samples: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(options.repetitions):
            for kind, measured in kinds.items():
                samples[kind].append(measured())
    first = samples[next(iter(samples))]
    for kind, seconds in samples.items():
        ratios = np.array(seconds) / np.array(samples.get(f"{kind}, by hand", first))
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        print(f"{kind:24} {np.median(seconds):9.5f} s, ratio {middle:.2f} ({low:.2f}-{high:.2f})")


if __name__ == "__main__":
    main()
