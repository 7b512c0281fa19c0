"""Starting a program under the MPI that this Python is bound to."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, TextIO

from outpace.benchmarks.traces import leftovers, read_part
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
    """How a launch ended: its exit code, and for a process that died by itself its pid (or rank) and the cause."""

    code: int
    pid: int | None = None
    rank: int | None = None
    cause: str = ""


def launch(module: str, ranks: int, arguments: Sequence[str]) -> Ended:
    """Print the command line and run it; its output passes through. SIGTERM and Ctrl-C are passed on."""
    line = command(module, ranks, arguments)
    print(shlex.join(line), file=sys.stderr, flush=True)
    process = subprocess.Popen(line, env=environment(ranks), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    forward = {
        number: signal.signal(number, lambda number, _: process.send_signal(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    said: list[bytes] = []
    streams = [(process.stdout, sys.stdout), (process.stderr, sys.stderr)]
    readers = [threading.Thread(target=_tee, args=(source, target, said)) for source, target in streams]
    for reader in readers:
        reader.start()
    code = process.wait()
    for reader in readers:
        reader.join()
    for number, handler in forward.items():
        signal.signal(number, handler)
    return _read_banner(b"".join(said).decode(errors="replace"), 128 - code if code < 0 else code)


def _tee(source: IO[bytes] | None, target: TextIO, said: list[bytes]) -> None:
    """Pass on what comes, as it comes: a progress bar redraws its line without ending it."""
    assert source
    while chunk := os.read(source.fileno(), 2**16):
        said.append(chunk)
        target.buffer.write(chunk)
        target.flush()


def _read_banner(said: str, code: int) -> Ended:
    """Which process died of a signal, as Hydra and PRRTE say it."""
    hydra = re.search(r"PID (\d+) RUNNING AT .*\n=\s+EXIT CODE: (\d+)", said)
    if hydra and 0 < int(hydra[2]) < signal.NSIG:
        return Ended(code, pid=int(hydra[1]), cause=signal.strsignal(int(hydra[2])) or "")
    prrte = re.search(r"process rank (\d+) .*exited on\s+signal (\d+)", said)
    if prrte:
        return Ended(code, rank=int(prrte[1]), cause=signal.strsignal(int(prrte[2])) or "")
    return Ended(code)


def explain(ended: Ended, target: Path) -> str | None:
    """One line for a process that died by a signal: its rank, from the part files beside `target`, and what to do."""
    if not ended.cause:
        return None
    rank = ended.rank
    parts = leftovers(target)
    for path in parts:
        if rank is None and path.suffix != ".models":
            header, _ = read_part(path)
            rank = header["rank"] if header["pid"] == ended.pid else None
    who = f"rank {rank}" if rank is not None else f"process {ended.pid}"
    kept = f"; what was written is kept: outpace show --recover {target.parent}" if parts else ""
    return f"{who}: {ended.cause}; the job ended{kept}"
