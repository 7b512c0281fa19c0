"""The Slurm job that this process is in, if any. Every launch looks here, so the standard library must be enough."""

import os
import subprocess
import sys

from outpace.comm import spec
from outpace.comm.errors import UserError


def of_job(name: str) -> str:
    """This variable of the job that we are in; empty outside of one, whatever else has set it."""
    return os.environ.get(name, "") if os.environ.get("SLURM_JOB_ID") else ""


def check_allocation() -> None:
    """Raise UserError in a heterogeneous job: launchers would use its first component alone."""
    components = of_job("SLURM_HET_SIZE") or "1"
    if components != "1":
        raise UserError(f"a heterogeneous Slurm job of {components} components; a run takes the ranks of one job alone")


def room() -> int:
    """How many tasks the job has that we are in; 0 outside of one, and where Slurm does not say."""
    return spec.plain_number(of_job("SLURM_NTASKS")) or 0


def requeue() -> None:
    """Ask Slurm for another turn of this job; a line where it refuses. Outside of a job nothing happens."""
    job = of_job("SLURM_JOB_ID")
    if not job:
        return
    if of_job("SLURM_ARRAY_JOB_ID"):
        job = f"{of_job('SLURM_ARRAY_JOB_ID')}_{of_job('SLURM_ARRAY_TASK_ID')}"
    print(f"job {job} is requeued", flush=True)
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    if done.returncode:
        print(f"scontrol requeue: {done.stderr.strip()}; submit the sweep again to go on", file=sys.stderr, flush=True)
