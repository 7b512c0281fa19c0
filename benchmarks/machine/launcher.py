"""Starting a program under the MPI that this Python is bound to."""

import itertools
import json
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, Final, TextIO

from outpace.benchmarks.machine import buffers, guardian, namespaces, shared_memory, streams, transport
from outpace.benchmarks.machine.account import Ended, code_of, ended
from outpace.benchmarks.machine.mpiexec import mpiexec, refuse_broken

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
    "UCX_DEBUG_SIGNO": "0",  # UCX has a process stop at SIGHUP else, to be debugged
}
UNTYPED: Final = (  # of `environment`: not needed
    *("OUTPACE_RANKS", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"),
    buffers.VARIABLE,
)
_connections: Final[list[socket.socket]] = []  # of this rank to it, none or one, kept open until the process ends


def simulated(arguments: Sequence[str]) -> bool:
    """Whether a program with these arguments is run in simulated time."""
    return value_of("--simulate", arguments) is not None


def command(module: str, ranks: int, arguments: Sequence[str], placement: Sequence[str] = ()) -> list[str]:
    """The command line that runs `module`, a dotted name or the path of a .py file, on `ranks` ranks; `placement` is
    the launcher's own options. Simulated ranks are all in one process.

    `module` ends MPI itself: a rank that Ctrl-C ends while it imports MPI would else wait at its exit for the others,
    which wait for it.
    """
    if simulated(arguments):
        return [sys.executable, "-m", "outpace.benchmarks.simulating", module, str(ranks), *arguments]
    program = [module] if module.endswith(".py") else ["-m", module]
    python = [sys.executable, "-m", "mpi4py", "-rc", "finalize=0"]
    return [*mpiexec(), *placement, "-n", str(ranks), *python, *program, *arguments]


def value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """What a program's command line gives to one of its flags, where it does; the last one counts.

    >>> value_of("--out", ["--out", "a.h5", "--outer=b", "--out=c.h5", "--epochs", "2"])
    'c.h5'
    """
    found = None
    for word, following in itertools.zip_longest(arguments, arguments[1:]):
        name, equals, value = word.partition("=")
        if name == flag:
            found = value if equals else following
    return found


def behind(arguments: Sequence[str], ranks: int) -> list[str]:
    """What goes before the launcher's line for a program with these arguments: nothing, or what puts its ranks behind
    the links of its flag --links. Raises UserError where that cannot be."""
    if simulated(arguments):
        return []
    return namespaces.inside(value_of("--links", arguments) or "none", ranks)


def environment(ranks: int, elsewhere: bool = False, logged: bool = False, script: bool = False) -> dict[str, str]:
    """This environment with what every launch sets, what keeps large buffers, and between hosts a transport
    (`elsewhere`: there are other hosts); what the user has set stays, but that a log is no terminal (`logged`), and
    that mpi4py puts the folder of a .py file (`script`) in the place of the working directory, which so must be on the
    path: else it were the user's first entry that goes."""
    terminal = {
        "TTY_COMPATIBLE": "1",
        "TTY_INTERACTIVE": "1",
        "COLUMNS": str(shutil.get_terminal_size().columns),
    }
    set_here = ENVIRONMENT | transport.default(os.environ, elsewhere) | buffers.default(os.environ)
    set_here |= terminal if sys.stderr.isatty() else {}
    set_last = {"OUTPACE_RANKS": str(ranks)} | ({"TTY_COMPATIBLE": "0", "TTY_INTERACTIVE": "0"} if logged else {})
    set_last |= {"PYTHONSAFEPATH": ""} if script else {}
    return set_here | dict(os.environ) | set_last


def typed(line: Sequence[str], given: Mapping[str, str]) -> str:
    """The command line as it can be typed: before it the variables of its environment that differ from this one's, but
    for those of Open MPI where the launcher lies beside MPICH's."""
    launcher = Path(os.path.realpath(shutil.which(mpiexec()[0]) or "mpiexec"))
    strange = ("OMPI_", "PRTE_") if launcher.with_name("mpiexec.hydra").exists() else ()
    differ = [name for name in given if given[name] != os.environ.get(name, "") and name not in UNTYPED]
    assigned = [f"{name}={shlex.quote(given[name])}" for name in differ if not name.startswith(strange)]
    return " ".join([*assigned, shlex.join(line)])


class Started:
    """A running launch. Its output passes through, or goes to `log` if given, a file open for appending.

    The processes inherit the file descriptors in `hold`, and have no input. They are in a session of their own, out of
    reach of the terminal's Ctrl-C: whoever started it decides which signal to `send`. All of them end with this
    process, however that ends (`guardian`). Where --links is among the arguments they run behind such links.
    `placement` is as in `command`. Raises UserError before anything starts.
    """

    def __init__(
        self,
        module: str,
        ranks: int,
        arguments: Sequence[str],
        log: BinaryIO | None = None,
        hold: Collection[int] = (),
        placement: Sequence[str] = (),
    ) -> None:
        inside, processes = behind(arguments, ranks), 1 if simulated(arguments) else ranks
        line = [*inside, *command(module, ranks, arguments, placement)]
        if not simulated(arguments):
            refuse_broken(line[0])
        script = module.endswith(".py") and not simulated(arguments)
        variables = environment(ranks, elsewhere=bool(placement), logged=log is not None, script=script)
        shown = typed(line, variables)
        if log is None:
            streams.say(shown)
        else:
            log.write(f"{shown}\n".encode())
            log.flush()
        self._log, self._start = log, log.tell() if log else 0
        orders, self._orders = _pipe()
        self._account, account = _pipe()
        self._life, life = _pipe()  # which every process of the job inherits
        out, err = (_pipe(), _pipe()) if log is None else (None, None)
        listener = socket.socket(socket.AF_UNIX)
        name = f"outpace-{os.urandom(16).hex()}"
        if not inside:  # else it gets its address from within, where this one is not seen
            listener.bind("\0" + name)  # in the abstract namespace: no file to clean up
            listener.listen(processes)
        given: dict[str, Any] = {
            "line": line,
            "ranks": processes if inside or (not placement and transport.one_host(os.environ)) else 0,
            "inside": bool(inside),
            "keep": [*hold, life.fileno()],
            "orders": orders.fileno(),
            "account": account.fileno(),
            "listener": listener.fileno(),
            "drain": [pipe[0].fileno() for pipe in (out, err) if pipe],
        }
        with orders, account, life, listener:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", guardian.__file__, json.dumps(given)],
                env=variables | {guardian.SOCKET: name},
                stdin=subprocess.DEVNULL,
                stdout=out[1] if out else log,
                stderr=err[1] if err else log,
                start_new_session=True,
                pass_fds=[*given["keep"], orders.fileno(), account.fileno(), listener.fileno(), *given["drain"]],
            )
        for pipe in (out, err):
            if pipe:
                pipe[1].close()
        self._said: list[bytes] = []
        passed = [(out[0], sys.stdout), (err[0], sys.stderr)] if out and err else []
        self._readers = [threading.Thread(target=_tee, args=(*pair, self._said)) for pair in passed]
        for reader in self._readers:
            reader.start()

    def send(self, number: int) -> None:
        with suppress(OSError, ValueError):  # it has ended
            self._orders.write(bytes([number]))

    def wait(self) -> Ended:
        """Until no process of the job on this host is left; where its guardian is killed, for PATIENCE_S at most."""
        # A signal may hit a reader's thread; its handler runs in this one, when it next wakes.
        while not select.select([self._account], [], [], 0.2)[0]:
            pass
        code = self._process.wait()
        for reader in self._readers:
            reader.join()
        with self._account, self._orders, self._life:
            account = self._account.read()
            if not account:  # the guardian was killed, and the others are just about to end
                select.select([self._life], [], [], guardian.PATIENCE_S)
                return Ended(code_of(-code) if code < 0 else code)
        return ended(json.loads(account), self._output())

    def _output(self) -> str:
        if self._log is None:
            return b"".join(self._said).decode(errors="replace")
        return Path(self._log.name).read_bytes()[self._start :].decode(errors="replace")


def launch(module: str, ranks: int, arguments: Sequence[str], placement: Sequence[str] = ()) -> Ended:
    """Print the command line and run it. SIGTERM, SIGUSR1, Ctrl-C and the end of the terminal are passed on, the last
    one unless nohup has it ignored. `placement` is as in `command`. Raises UserError before anything starts."""
    running: Started | None = None
    received, early = list[int](), list[int]()

    def pass_on(number: int, _: object) -> None:
        received.append(number)
        if running:
            running.send(number)
        else:
            early.append(number)

    with handling(pass_on, *guardian.PASSED_ON):
        running = Started(module, ranks, arguments, placement=placement)
        for number in early:
            running.send(number)
        ended = running.wait()
    return replace(ended, told=received[-1]) if received else ended


@contextmanager
def handling(handler: Callable[[int, FrameType | None], object], *numbers: int) -> Iterator[None]:
    """These signals go to the handler meanwhile, but for SIGHUP under nohup."""
    nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    heard = [number for number in numbers if number != signal.SIGHUP or not nohup]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, other in before.items():
            signal.signal(number, other)


def report(rank: int) -> None:
    """Connect this rank to the guardian of the `outpace` command that launched it, if one did and runs on this node.
    The connection says when the process ends."""
    name = os.environ.get(guardian.SOCKET)
    if name and not _connections:
        connection = socket.socket(socket.AF_UNIX)
        with suppress(OSError):
            connection.connect(name if name.startswith("/") else f"\0{name}")
            connection.sendall(b"%d\n" % rank)
            _connections.append(connection)


def announce(code: int) -> None:
    """Say there with which exit code this rank will end, which a launcher may change."""
    for connection in _connections:
        with suppress(OSError):
            connection.sendall(b"%d\n" % code)


def _pipe() -> tuple[BinaryIO, BinaryIO]:
    reading, writing = os.pipe()
    return os.fdopen(reading, "rb", 0), os.fdopen(writing, "wb", 0)


def _tee(source: BinaryIO, target: TextIO, said: list[bytes]) -> None:
    """Pass on what comes, as it comes: a progress bar redraws its line without ending it."""
    with source:
        while chunk := os.read(source.fileno(), 2**16):
            said.append(chunk)
            try:
                target.buffer.write(chunk)
                target.flush()
            except OSError:  # nobody listens any more: no reason to end the job in its midst
                streams.forsake(target)


def said(program: str, ended: Ended) -> str:
    """One line for any launch after which nothing else is to be launched."""
    by = f", and {signal.Signals(ended.told).name} came" if ended.told else ""
    return f"{program} ended with exit code {ended.code}{by}"


def explain(ended: Ended, folder: Path | None = None) -> str | None:
    """One line for a launch that the end of one rank has ended, with what to do about a trace in `folder`; else
    None."""
    if not ended.cause:
        return None
    who = "a rank" if ended.rank is None else f"rank {ended.rank}"
    room = f" ({shared_memory.room()})" if ended.cause == signal.strsignal(signal.SIGBUS) else ""
    parts = folder is not None and any(folder.glob("*.part-0"))
    kept = f"; what was written is kept: outpace show --recover {folder}" if parts else ""
    return f"{who}: {ended.cause}{room}, so the job ended{kept}"
