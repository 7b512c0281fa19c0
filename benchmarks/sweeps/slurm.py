"""Handing a sweep to Slurm: one job array for every number of ranks, and what is in the queue already.

Slurm is spoken to by its own commands. The manifest of an array is named by its checksum, and so is the array
(`outpace-<checksum>`): the queue then tells which points wait, and nothing has to be kept up to date beside it.
"""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from outpace.benchmarks.sweeps.manifest import Sweep, manifest, read_manifest
from outpace.benchmarks.sweeps.point import Point
from outpace.benchmarks.sweeps.scripts import SWEEP, jobscripts
from outpace.benchmarks.trace.files import whole
from outpace.comm.errors import UserError

FOLDER: Final = "slurm"  # of manifests and of the jobs' own output, in the folder of the sweep
MOST_TASKS: Final = 1000  # of an array, by Slurm's default MaxArraySize


def submit(sweep: Sweep, chosen: Sequence[Point]) -> int:
    """Submit the points, one array for every number of ranks; print the commands and the jobs. Raises UserError."""
    if not shutil.which("sbatch"):
        raise UserError("--slurm: no sbatch on the PATH")
    scripts, folder = jobscripts(), sweep.folder / FOLDER
    folder.mkdir(exist_ok=True)
    throttle = sweep.slurm.get("throttle")
    own = [_option(key, value) for key, value in sweep.slurm.items() if key != "throttle" and value is not False]
    for part in batches(chosen):
        text = manifest(part)
        path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.manifest"
        with whole(path) as file:
            file.write(text.encode())
        line = ["sbatch", "--parsable", f"--job-name=outpace-{path.stem}", f"--ntasks={part[0].ranks}"]
        line += [f"--array=1-{len(part)}" + (f"%{throttle}" if throttle else "")]
        line += [f"--output={folder}/%A_%a.out", *own]
        line += [str(scripts / SWEEP), str(path)]
        print(shlex.join(line), flush=True)
        # site.env may set SBATCH_PARTITION and the like, which sbatch reads.
        done = subprocess.run(
            ["bash", "-c", 'set -a; . "$0"; exec "$@"', str(scripts / "site.env"), *line],
            env=_environment(scripts),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise UserError(f"sbatch refused: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done}")
        job = done.stdout.split(";")[0].split()[-1]
        print(f"job {job}: {len(part)} point(s) of {part[0].ranks} rank(s)", flush=True)
    return 0


def _option(key: str, value: Any) -> str:
    return f"--{key}" if value is True else f"--{key}={value}"


def _environment(scripts: Path) -> dict[str, str]:
    """This environment without that of a job we may be in, and how the new job finds the site file and this OutPace."""
    clean = {name: text for name, text in os.environ.items() if not name.startswith("SLURM_") or name == "SLURM_CONF"}
    outpace = Path(sys.executable).parent / "outpace"
    clean["OUTPACE_JOBSCRIPTS"] = str(scripts.resolve())
    return clean | ({"OUTPACE": str(outpace)} if outpace.exists() else {})


def batches(points: Sequence[Point], most: int = MOST_TASKS) -> list[list[Point]]:
    """The points by their number of ranks, at most so many together: what each array asks for is the same for all."""
    by_ranks: dict[int, list[Point]] = {}
    for point in points:
        by_ranks.setdefault(point.ranks, []).append(point)
    return [group[k : k + most] for _, group in sorted(by_ranks.items()) for k in range(0, len(group), most)]


def queued(folder: Path) -> dict[str, str]:
    """point id -> job, of the points of this folder that wait or run under Slurm."""
    manifests = {path.stem: path for path in (folder / FOLDER).glob("*.manifest")}
    if not manifests or not shutil.which("squeue"):
        return {}
    done = subprocess.run(["squeue", "--me", "-h", "-r", "-o", "%j %F %K"], capture_output=True, text=True)
    found = {}
    for line in done.stdout.splitlines():
        job = re.fullmatch(r"outpace-([0-9a-f]{12}) (\d+) (\d+)", line.strip())
        if job and job[1] in manifests:
            points = read_manifest(manifests[job[1]]).points
            found[points[int(job[3]) - 1].id] = f"{job[2]}_{job[3]}"
    return found


def requeue() -> None:
    """Ask Slurm for another turn of this job; a line where it refuses. Outside of a job nothing happens."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    print(f"job {job} is requeued", flush=True)
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    if done.returncode:
        print(f"scontrol requeue: {done.stderr.strip()}; submit the sweep again to go on", file=sys.stderr, flush=True)
