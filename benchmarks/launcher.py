"""Starting a program under the MPI that this Python is bound to."""

import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, TextIO

from outpace.comm.spec import UserError

# Programs are benchmarked one thread per rank; `python -m` must not put the working directory on the path, where a
# folder named `comm` or `benchmarks` would shadow other packages; Open MPI must accept more ranks than cores, and root.
ENVIRONMENT: Final = {
    "PYTHONSAFEPATH": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}
SOCKET: Final = "OUTPACE_LAUNCHER_SOCKET"  # names the abstract socket of `launch` to its ranks


def mpiexec() -> list[str]:
    """The launcher: OUTPACE_LAUNCHER if set, else the mpiexec beside this Python, else the one on the PATH."""
    chosen = os.environ.get("OUTPACE_LAUNCHER")
    if chosen:
        return shlex.split(chosen)
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if not found:
        raise UserError(
            "no mpiexec beside this Python or on the PATH; install the extra `mpich` or set OUTPACE_LAUNCHER"
        )
    return [found]


def command(module: str, ranks: int, arguments: Sequence[str]) -> list[str]:
    """The command line that runs `module` on `ranks` ranks."""
    return [*mpiexec(), "-n", str(ranks), sys.executable, "-m", "mpi4py", "-m", module, *arguments]


def environment(ranks: int) -> dict[str, str]:
    """This environment with what every launch sets; what the user has set stays."""
    terminal = {
        "TTY_COMPATIBLE": "1",
        "TTY_INTERACTIVE": "1",
        "COLUMNS": str(shutil.get_terminal_size().columns),
    }
    return ENVIRONMENT | (terminal if sys.stderr.isatty() else {}) | dict(os.environ) | {"OUTPACE_RANKS": str(ranks)}


@dataclass(frozen=True)
class Ended:
    """How a launch ended: its exit code and, where a rank of this node was killed by a signal, which rank and how."""

    code: int
    rank: int | None = None
    cause: str = ""


def launch(module: str, ranks: int, arguments: Sequence[str], inside: Sequence[str] = ()) -> Ended:
    """Print the command line and run it; its output passes through. SIGTERM, SIGUSR1 and Ctrl-C are passed on.

    `inside` is what `link.inside` puts before the line; the signals then kill all that is in the namespaces.
    """
    line = [*inside, *command(module, ranks, arguments)]
    print(shlex.join(line), file=sys.stderr, flush=True)
    name = f"outpace-{uuid.uuid4().hex}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0" + name)  # in the abstract namespace: no file to clean up
    listener.listen(ranks)
    process = subprocess.Popen(
        line, env=environment(ranks) | {SOCKET: name}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    forward = {
        number: signal.signal(number, lambda number, _: process.send_signal(signal.SIGKILL if inside else number))
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    }
    said: list[bytes] = []
    deaths: list[int] = []
    streams = [(process.stdout, sys.stdout), (process.stderr, sys.stderr)]
    readers = [threading.Thread(target=_tee, args=(source, target, said)) for source, target in streams]
    readers.append(threading.Thread(target=_first_death, args=(listener, process, deaths)))
    for reader in readers:
        reader.start()
    code = process.wait()
    for reader in readers:
        reader.join()
    for number, handler in forward.items():
        signal.signal(number, handler)
    killed = re.search(r"signal (\d+)", b"".join(said).decode(errors="replace")) if code and deaths else None
    if killed and 0 < int(killed[1]) < signal.NSIG:
        return Ended(code, deaths[0], signal.strsignal(int(killed[1])) or "")
    return Ended(128 - code if code < 0 else code)


def _first_death(listener: socket.socket, process: "subprocess.Popen[bytes]", deaths: list[int]) -> None:
    """Append the rank of this node that ended first, by the order in which the ranks' connections close.

    Launchers kill the other ranks at once, and Hydra's message then names any one of them. A dying process closes its
    files in one go, so this connection closes with the one whose closing tells the launcher, before any other rank is
    told; and an epoll queues its events in the order in which they happen.
    """
    ranks: dict[int, int] = {}
    connections = []
    with listener, select.epoll() as epoll:
        epoll.register(listener, select.EPOLLIN)
        running = True
        while running:
            running = process.poll() is None
            for descriptor, _ in epoll.poll(0.2 if running else 0):
                if descriptor == listener.fileno():
                    connection, _ = listener.accept()
                    ranks[connection.fileno()] = int(connection.recv(16))
                    connections.append(connection)
                    epoll.register(connection, select.EPOLLIN)
                else:
                    deaths.append(ranks[descriptor])
                    epoll.unregister(descriptor)
    for connection in connections:
        connection.close()


def report(rank: int) -> socket.socket | None:
    """Connect this rank to the `outpace` command that launched it, if one did and runs on this node. The connection
    says when the process ends; it must be kept."""
    name = os.environ.get(SOCKET)
    if not name:
        return None
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect("\0" + name)
        connection.sendall(str(rank).encode())
    except OSError:
        return None
    return connection


def _tee(source: IO[bytes] | None, target: TextIO, said: list[bytes]) -> None:
    """Pass on what comes, as it comes: a progress bar redraws its line without ending it."""
    assert source
    while chunk := os.read(source.fileno(), 2**16):
        said.append(chunk)
        target.buffer.write(chunk)
        target.flush()


def explain(ended: Ended, folder: Path) -> str | None:
    """One line for a launch that a killed rank ended, with what to do about the trace in `folder`; else None."""
    if ended.rank is None:
        return None
    kept = f"; what was written is kept: outpace show --recover {folder}" if any(folder.glob("*.part-0")) else ""
    return f"rank {ended.rank}: {ended.cause}, so the job ended{kept}"
