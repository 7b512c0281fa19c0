"""Where a run took place: launch checks, versions, hardware, and what its timings may be called."""

import math
import os
import platform
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import mpi4py
import numpy as np
from mpi4py import MPI

from outpace.benchmarks.machine import buffers, namespaces
from outpace.benchmarks.machine.version import VERSION
from outpace.comm import agreement, arrays, control_groups, spec
from outpace.comm.errors import UserError

THREAD_LEVELS: Final = {
    MPI.THREAD_SINGLE: "single",
    MPI.THREAD_FUNNELED: "funneled",
    MPI.THREAD_SERIALIZED: "serialized",
    MPI.THREAD_MULTIPLE: "multiple",
}
# How many processes the launcher says it started, the most specific first: a point may be smaller than its step.
TASK_COUNTS: Final = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")


def check_launch(size: int, ranks: int | None) -> None:
    """Refuse a broken launch, in which every process believes to be alone or their number is not the one asked for."""
    expected = ranks if ranks is not None else _number(os.environ.get("OUTPACE_RANKS"))
    if expected is not None and expected != size:
        raise UserError(f"this launch has {size} rank(s), but --ranks or OUTPACE_RANKS asks for {expected}")
    counts = [(name, _number(os.environ.get(name))) for name in TASK_COUNTS]
    name, tasks = next(((name, tasks) for name, tasks in counts if tasks is not None), ("", None))
    if size == 1 and tasks is not None and tasks > 1:
        raise UserError(
            f"every process is alone (comm.size 1) while {name} says {tasks}: launcher and MPI do not match; "
            "use this MPI's own mpiexec, or srun with the matching --mpi"
        )


def claim_class(comm: MPI.Intracomm, emulated: bool, gpus: Sequence[str] = ()) -> str:
    """`emulated` where compute time is slept or ranks share cores on some node, or workers a GPU, `gpus` being
    theirs; else `measured`; collective."""
    seats = comm.allgather((platform.node(), frozenset(os.sched_getaffinity(0)), _quota_cores()))
    shared = len(set(gpus)) < len(gpus) or ranks_share_cores(seats)
    return "emulated" if emulated or shared else "measured"


def gpus(comm: MPI.Intracomm, n: int, gpu: bool) -> list[str]:
    """The device of each of the n workers, where they compute on some; collective."""
    return comm.allgather(arrays.device_name())[:n] if gpu else []


def ranks_share_cores(seats: list[tuple[str, frozenset[int], float]]) -> bool:
    """Whether some node has fewer cores than ranks, by each rank's (node, affinity mask, CPU quota in cores).

    >>> ranks_share_cores([("a", frozenset({0, 1}), 2.0), ("a", frozenset({0, 1}), 2.0)])
    False
    >>> ranks_share_cores([("a", frozenset({0, 1}), 1.0), ("a", frozenset({0, 1}), 1.0)])
    True
    """
    nodes = defaultdict(list)
    for node, mask, quota in seats:
        nodes[node].append((mask, quota))
    for ranks in nodes.values():
        masks = {mask for mask, _ in ranks}
        groups = [*masks, frozenset().union(*masks)]
        if any(sum(mask <= cores for mask, _ in ranks) > len(cores) for cores in groups):
            return True
        if len(ranks) > min(quota for _, quota in ranks):
            return True
    return False


def usable_cores() -> int:
    """Cores that this process may use: its affinity mask, cut by the CPU quota of its control group."""
    return max(1, int(min(len(os.sched_getaffinity(0)), _quota_cores())))


def command(ranks: int) -> str:
    """The command line of this job, which runs it again from the same folder."""
    module = sys.modules["__main__"].__spec__  # None for a program that was started as a file
    if namespaces.VARIABLE in os.environ:  # which the launcher alone does not set up
        name = module.name.rpartition(".")[2] if module else sys.argv[0]
        return shlex.join(["outpace", "run", name, "-n", str(ranks), *sys.argv[1:]])
    program = ["-m", module.name] if module else sys.argv[:1]
    return shlex.join(["mpiexec", "-n", str(ranks), "python", "-m", "mpi4py", *program, *sys.argv[1:]])


def describe(comm: MPI.Intracomm, gpu: bool) -> dict[str, Any]:
    """The root attributes that tell where the run took place; collective."""
    hosts = comm.allgather(platform.node())
    cores = dict(zip(hosts, comm.allgather(usable_cores()), strict=True))
    found: dict[str, Any] = comm.bcast(agreement.on_root(comm, lambda: _of_rank_0(gpu)))
    return found | {"hostnames": hosts, "cores": sum(cores.values())}


def _of_rank_0(gpu: bool) -> dict[str, Any]:
    """What one rank tells for all: to look it up on each would be most of the start of many."""
    import h5py  # slow

    return {
        "outpace_version": VERSION,
        "git_commit": _git_commit(),
        "mpi_library": MPI.Get_library_version().strip("\0 \n").splitlines()[0],
        "thread_level": THREAD_LEVELS[MPI.Query_thread()],
        "cpu_model": cpu_model(),
        **({"glibc_tunables": os.environ[buffers.VARIABLE]} if buffers.VARIABLE in os.environ else {}),
        "gpu": _gpu_name() if gpu else "none",
        "python_version": platform.python_version(),
        "numpy_version": np.__version__,
        "mpi4py_version": mpi4py.__version__,
        "h5py_version": h5py.__version__,
        "cupy_version": _version("cupy") if gpu else "none",
    }


def _number(text: str | None) -> int | None:
    return spec.plain_number(text) if text else None


def _quota_cores(proc: Path = Path("/proc/self")) -> float:
    """The smallest CPU quota, in cores, of this process's control group and of all above it that can be seen; infinite
    where there is none."""
    return min([math.inf, *map(_quota, control_groups.folders("cpu", proc))])


def _quota(group: Path) -> float:
    """The quota of this control group itself in cores, infinite where it has none."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{part}_us").read_text() for part in ("quota", "period"))
        cores = int(quota) / int(period)
    except (OSError, ValueError):  # "max", or the group above all others, which has no limits
        return math.inf
    return cores if cores > 0 else math.inf  # -1 is none


def _git_commit() -> str:
    """The commit of the repository that has this very file in it, if there is one."""
    here = Path(__file__).resolve()
    command = ["git", "rev-parse", "HEAD", f"HEAD:./{here.name}"]
    try:
        done = subprocess.run(command, cwd=here.parent, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.split()[0]
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _gpu_name() -> str:
    import cupy

    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"]
    return str(name.decode())


def _version(module: str) -> str:
    return str(__import__(module).__version__)
