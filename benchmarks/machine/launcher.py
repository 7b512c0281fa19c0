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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, BinaryIO, Final, TextIO

from outpace.benchmarks.machine import transport
from outpace.comm.errors import UserError

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
UNTYPED: Final = ("OUTPACE_RANKS", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS")  # of `environment`: not needed
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


def command(module: str, ranks: int, arguments: Sequence[str], placement: Sequence[str] = ()) -> list[str]:
    """The command line that runs `module`, a dotted name or the path of a .py file, on `ranks` ranks; `placement` is
    the launcher's own options."""
    program = [module] if module.endswith(".py") else ["-m", module]
    return [*mpiexec(), *placement, "-n", str(ranks), sys.executable, "-m", "mpi4py", *program, *arguments]


def one_a_node(hosts: str) -> tuple[int, list[str]]:
    """How many ranks, and the options with which the launcher starts one on each of the hosts, or without names on
    each node of this Slurm job. Raises UserError."""
    nodes = len(hosts.split(",")) if hosts else int(os.environ.get("SLURM_JOB_NUM_NODES", "0"))
    if not nodes:
        raise UserError("--nodes: name the hosts, as in --nodes a,b, or run it in a Slurm job")
    launcher = mpiexec()
    if Path(launcher[0]).name == "srun":
        return nodes, ["--ntasks-per-node=1", f"--nodes={nodes}", *([f"--nodelist={hosts}"] if hosts else [])]
    if is_hydra(launcher[0]):
        return nodes, ["-ppn", "1", *(["-hosts", hosts] if hosts else [])]
    raise UserError(
        f"--nodes starts ranks by srun or by MPICH's mpiexec, not by {launcher[0]}; start "
        f"`{sys.executable} -m mpi4py -m outpace.benchmarks.machine.doctor --nodes` with it, once on each node"
    )


def is_hydra(launcher: str) -> bool:
    """Whether the command is Hydra, MPICH's mpiexec."""
    there = shutil.which(launcher)
    return bool(there) and "HYDRA" in subprocess.run([launcher, "--version"], capture_output=True, text=True).stdout


def environment(ranks: int, elsewhere: bool = False) -> dict[str, str]:
    """This environment with what every launch sets, and between hosts a transport (`elsewhere`: there are other hosts);
    what the user has set stays."""
    terminal = {
        "TTY_COMPATIBLE": "1",
        "TTY_INTERACTIVE": "1",
        "COLUMNS": str(shutil.get_terminal_size().columns),
    }
    set_here = ENVIRONMENT | transport.default(os.environ, elsewhere) | (terminal if sys.stderr.isatty() else {})
    return set_here | dict(os.environ) | {"OUTPACE_RANKS": str(ranks)}


def typed(line: Sequence[str], given: Mapping[str, str]) -> str:
    """The command line as it can be typed: before it the variables of its environment that this one lacks, but for
    those of Open MPI where the launcher lies beside MPICH's."""
    launcher = Path(os.path.realpath(shutil.which(mpiexec()[0]) or "mpiexec"))
    strange = ("OMPI_", "PRTE_") if launcher.with_name("mpiexec.hydra").exists() else ()
    lacking = [name for name in given if name not in os.environ and name not in UNTYPED]
    assigned = [f"{name}={shlex.quote(given[name])}" for name in lacking if not name.startswith(strange)]
    return " ".join([*assigned, shlex.join(line)])


@dataclass(frozen=True)
class Ended:
    """How a launch ended: its exit code and, where a rank of this node was killed by a signal, which rank and how."""

    code: int
    rank: int | None = None
    cause: str = ""


class Started:
    """A running launch. Its output passes through, or goes to `log` if given, a file open for appending.

    The processes inherit the file descriptors in `hold`. They are in a session of their own, out of reach of the
    terminal's Ctrl-C, which the launcher would otherwise get twice: whoever started it decides which signal to `send`.
    `inside` is what `link.inside` puts before the line; a signal then kills all that is in the namespaces. `placement`
    is as in `command`.
    """

    def __init__(
        self,
        module: str,
        ranks: int,
        arguments: Sequence[str],
        log: BinaryIO | None = None,
        hold: Collection[int] = (),
        inside: Sequence[str] = (),
        placement: Sequence[str] = (),
    ) -> None:
        line = [*inside, *command(module, ranks, arguments, placement)]
        self._inside = bool(inside)
        if not shutil.which(line[0]):
            raise UserError(f"there is no launcher {line[0]}; see OUTPACE_LAUNCHER")
        shown = typed(line, environment(ranks, elsewhere=bool(placement)))
        if log is None:
            print(shown, file=sys.stderr, flush=True)
        else:
            log.write(f"{shown}\n".encode())
            log.flush()
        name = f"outpace-{uuid.uuid4().hex}"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("\0" + name)  # in the abstract namespace: no file to clean up
        listener.listen(ranks)
        self._log, self._start = log, log.tell() if log else 0
        self._process = subprocess.Popen(
            line,
            env=environment(ranks, elsewhere=bool(placement)) | {SOCKET: name},
            stdin=None if log is None else subprocess.DEVNULL,
            stdout=subprocess.PIPE if log is None else log,
            stderr=subprocess.PIPE if log is None else log,
            start_new_session=True,
            pass_fds=hold,
        )
        self._said: list[bytes] = []
        self._deaths: list[int] = []
        self._over = os.eventfd(0)
        streams = [] if log else [(self._process.stdout, sys.stdout), (self._process.stderr, sys.stderr)]
        self._readers = [threading.Thread(target=_tee, args=(*stream, self._said)) for stream in streams]
        watched = listener, self._process, self._over, self._deaths
        self._readers.append(threading.Thread(target=_first_death, args=watched))
        for reader in self._readers:
            reader.start()

    def send(self, number: int) -> None:
        self._process.send_signal(signal.SIGKILL if self._inside else number)

    def wait(self) -> Ended:
        code = self._process.wait()
        os.eventfd_write(self._over, 1)
        for reader in self._readers:
            reader.join()
        os.close(self._over)
        killed = re.search(r"signal (\d+)", self._output()) if code and self._deaths else None
        if killed and 0 < int(killed[1]) < signal.NSIG:
            return Ended(code, self._deaths[0], signal.strsignal(int(killed[1])) or "")
        return Ended(128 - code if code < 0 else code)

    def _output(self) -> str:
        if self._log is None:
            return b"".join(self._said).decode(errors="replace")
        return Path(self._log.name).read_bytes()[self._start :].decode(errors="replace")


def launch(
    module: str, ranks: int, arguments: Sequence[str], inside: Sequence[str] = (), placement: Sequence[str] = ()
) -> Ended:
    """Print the command line and run it. SIGTERM, SIGUSR1 and Ctrl-C are passed on, and the end of the terminal as a
    SIGTERM, unless nohup has it ignored. `inside` and `placement` are as in `Started`."""
    running = Started(module, ranks, arguments, inside=inside, placement=placement)

    def pass_on(number: int, _: object) -> None:
        running.send(signal.SIGTERM if number == signal.SIGHUP else number)

    hang_up = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    with handling(pass_on, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, *hang_up):
        return running.wait()


@contextmanager
def handling(handler: Callable[[int, FrameType | None], object], *numbers: int) -> Iterator[None]:
    """These signals go to the handler meanwhile."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, other in before.items():
            signal.signal(number, other)


def _first_death(listener: socket.socket, process: "subprocess.Popen[bytes]", over: int, deaths: list[int]) -> None:
    """Append the rank of this node that ended first, by the order in which the ranks' connections close.

    Launchers kill the other ranks at once, and Hydra's message then names any one of them. A dying process closes its
    files in one go, so this connection closes with the one whose closing tells the launcher, before any other rank is
    told; and an epoll queues its events in the order in which they happen.
    """
    ranks: dict[int, int] = {}
    connections = []
    with listener, select.epoll() as epoll:
        epoll.register(listener, select.EPOLLIN)
        epoll.register(over, select.EPOLLIN)  # the process has ended
        running = True
        while running:
            running = process.poll() is None
            for descriptor, _ in epoll.poll(0.2 if running else 0):
                if descriptor == listener.fileno():
                    connection, _ = listener.accept()
                    ranks[connection.fileno()] = int(connection.recv(16))
                    connections.append(connection)
                    epoll.register(connection, select.EPOLLIN)
                elif descriptor != over:
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
    with source:
        while chunk := os.read(source.fileno(), 2**16):
            said.append(chunk)
            with suppress(OSError):  # nobody listens any more: no reason to end the job in its midst
                target.buffer.write(chunk)
                target.flush()


def explain(ended: Ended, folder: Path) -> str | None:
    """One line for a launch that a killed rank ended, with what to do about the trace in `folder`; else None."""
    if ended.rank is None:
        return None
    kept = f"; what was written is kept: outpace show --recover {folder}" if any(folder.glob("*.part-0")) else ""
    return f"rank {ended.rank}: {ended.cause}, so the job ended{kept}"
