"""The command that starts the ranks: which one it is, what it can do, and how it is told of hosts."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from outpace.comm import spec
from outpace.comm.errors import UserError

SLURM_JOB: Final = {"SLURM_JOB_ID", "SLURM_TASKS_PER_NODE"}  # with these Hydra starts ranks by srun ...
HYDRA_CHOICES: Final = {  # ... unless told of other hosts or another way
    *("HYDRA_LAUNCHER", "HYDRA_BOOTSTRAP", "HYDRA_RMK", "HYDRA_HOST_FILE"),
    *("-launcher", "-bootstrap", "-rmk", "-hosts", "-host", "-f"),
}


def mpiexec() -> list[str]:
    """The launcher: OUTPACE_LAUNCHER if set, else the mpiexec beside this Python, else the one on the PATH. Raises
    UserError."""
    if chosen := os.environ.get("OUTPACE_LAUNCHER", "").strip():
        try:
            return shlex.split(chosen)
        except ValueError as error:
            raise UserError(f"OUTPACE_LAUNCHER is {chosen}, no command line: {error}") from None
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if not found:
        raise UserError(
            "no mpiexec beside this Python or on the PATH; install the extra `mpich` or set OUTPACE_LAUNCHER"
        )
    return [found]


def one_a_node(hosts: str) -> tuple[int, list[str]]:
    """How many ranks, and the options with which the launcher starts one on each of the hosts, or without names on
    each node of this Slurm job. Raises UserError."""
    nodes = len(hosts.split(",")) if hosts else spec.plain_number(os.environ.get("SLURM_JOB_NUM_NODES", ""))
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


def refuse_broken(launcher: str) -> None:
    """Raise UserError for a launcher that is not there, or would hang."""
    if not shutil.which(launcher):
        raise UserError(f"there is no launcher {launcher}; see OUTPACE_LAUNCHER")
    chosen = HYDRA_CHOICES & {*os.environ, *mpiexec()}
    if not chosen and os.environ.keys() >= SLURM_JOB and not shutil.which("srun") and is_hydra(launcher):
        raise UserError(
            f"this is inside Slurm's job {os.environ.get('SLURM_JOB_ID', '')}, and there is no srun on the PATH, by "
            "which MPICH's mpiexec starts ranks there; put srun on it, or for ranks on this node alone set "
            "HYDRA_LAUNCHER=fork"
        )


def is_hydra(launcher: str) -> bool:
    """Whether the command is Hydra, MPICH's mpiexec."""
    there = shutil.which(launcher)
    return bool(there) and "HYDRA" in subprocess.run([launcher, "--version"], capture_output=True, text=True).stdout
