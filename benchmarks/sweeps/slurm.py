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
from typing import Final

from outpace.benchmarks.sweeps import options
from outpace.benchmarks.sweeps.manifest import Sweep, manifest, read_manifest
from outpace.benchmarks.sweeps.point import Point
from outpace.benchmarks.sweeps.scripts import SITE, SWEEP, installed, jobscripts
from outpace.benchmarks.trace.files import whole
from outpace.comm.errors import UserError

FOLDER: Final = "slurm"  # of manifests and of the jobs' own output, in the folder of the sweep
MOST_TASKS: Final = 1000  # of an array, by Slurm's default MaxArraySize
CLUSTER: Final = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")  # which Slurm it is, not what is asked of it

# Read the site file, which may set SBATCH_PARTITION and the like for sbatch; what it prints is for people. A job needs
# two variables even where SBATCH_EXPORT is NONE.
SUBMIT: Final = f"""\
set -a
. "$0" >&2
[ -z "${{SBATCH_EXPORT:-}}" ] || SBATCH_EXPORT="$SBATCH_EXPORT,{options.NEEDED}"
exec "$@"
"""


def submit(sweep: Sweep, chosen: Sequence[Point]) -> int:
    """Submit the points, one array for every number of ranks; print the commands and the jobs. Raises UserError."""
    for tool in ("sbatch", "squeue"):  # without the second nobody knows what waits already
        if not shutil.which(tool):
            raise UserError(f"--slurm: no {tool} on the PATH")
    scripts, folder = jobscripts(sweep.file), sweep.folder / FOLDER
    if "\\" in str(folder):
        raise UserError(f"--slurm: {folder} has a backslash, which sbatch takes for its own; name another folder")
    untouched = "" if scripts != installed() else ", as installed; `outpace jobscripts jobscripts` makes one to adapt"
    print(f"site file: {scripts / SITE}{untouched}", flush=True)
    folder.mkdir(exist_ok=True)
    throttle = sweep.slurm.get("throttle")
    outpace = Path(sys.executable).parent / "outpace"
    ours = {"OUTPACE_JOBSCRIPTS": str(scripts.resolve())} | ({"OUTPACE": str(outpace)} if outpace.exists() else {})
    for part in batches(chosen):
        text = manifest(part)
        # Sweeps of two folders may have the same points, by relative paths.
        name = hashlib.sha256(f"{folder.resolve()}\n{text}".encode()).hexdigest()[:12]
        path = folder / f"{name}.manifest"
        with whole(path) as file:
            file.write(text.encode())
        line = ["sbatch", "--parsable", f"--job-name=outpace-{name}", f"--ntasks={part[0].processes}"]
        line += [f"--array=1-{len(part)}" + (f"%{throttle}" if throttle else "")]
        line += [f"--output={str(folder).replace('%', '%%')}/%A_%a.out", *options.words(sweep.slurm)]
        line += [str(scripts / SWEEP), str(path)]
        print(shlex.join(line), flush=True)
        said = _ask(["bash", "-c", SUBMIT, str(scripts / SITE), *line], "sbatch refused", **ours)
        job = re.fullmatch(r"(\d+)(;.*)?", said.strip())
        if not job:
            raise UserError(f"sbatch named no job: {said.strip() or 'it said nothing'}")
        print(f"job {job[1]}: {len(part)} point(s) of {part[0].processes} rank(s)", flush=True)
    return 0


def _ask(line: Sequence[str], refused: str, **ours: str) -> str:
    """What a command of Slurm prints. Raises UserError with all that it says where it fails.

    It gets neither the variables of a job that we may be in nor those of the user by which it would show something
    else, or ask for something else, than its options say.
    """
    own = tuple(f"SBATCH_{option.upper().replace('-', '_')}" for option in options.OWN)
    clean = {
        name: text
        for name, text in os.environ.items()
        if name in CLUSTER or not name.startswith(("SLURM_", "SQUEUE_", *own))
    }
    done = subprocess.run(line, env=clean | ours, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = [text.strip() for text in done.stderr.splitlines() if text.strip()]
        told = [text for text in lines if text.startswith(("sbatch:", "squeue:"))] or lines
        short = [re.sub(r"^(sbatch|squeue): (error: )?", "", text) for text in told]
        raise UserError(f"{refused}: {'; '.join(short) or f'exit code {done.returncode}'}")
    return done.stdout


def batches(points: Sequence[Point], most: int = MOST_TASKS) -> list[list[Point]]:
    """The points by their number of processes, at most so many together: what each array asks for is the same for
    all."""
    by_size: dict[int, list[Point]] = {}
    for point in points:
        by_size.setdefault(point.processes, []).append(point)
    return [group[k : k + most] for _, group in sorted(by_size.items()) for k in range(0, len(group), most)]


def queued(folder: Path) -> dict[str, str]:
    """point id -> job, of the points of this folder that wait or run under Slurm. Raises UserError where Slurm does not
    tell: that is no empty queue."""
    manifests = {path.stem: path for path in (folder / FOLDER).glob("*.manifest")}
    if not manifests or not shutil.which("squeue"):
        return {}
    line = ["squeue", "--me", "--all", "--noheader", "--array", "--format=%j %F %K"]
    found = {}
    for each in _ask(line, "what waits under Slurm is not known: squeue").splitlines():
        job = re.fullmatch(r"outpace-([0-9a-f]{12}) (\d+) (\d+)", each.strip())
        if job and job[1] in manifests:
            points = read_manifest(manifests[job[1]]).points
            found[points[int(job[3]) - 1].id] = f"{job[2]}_{job[3]}"
    return found
