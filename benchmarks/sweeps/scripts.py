"""Where the job scripts and the preset sweeps are."""

import importlib.resources
import os
import shutil
from pathlib import Path
from typing import Final

from outpace.comm.errors import UserError

SWEEP: Final = "sweep.sbatch"


def jobscripts() -> Path:
    """The folder of the job scripts: OUTPACE_JOBSCRIPTS if set, else ./jobscripts if there, else those installed."""
    chosen = os.environ.get("OUTPACE_JOBSCRIPTS")
    if chosen and not (Path(chosen) / SWEEP).is_file():
        raise UserError(f"OUTPACE_JOBSCRIPTS is {chosen}, which holds no {SWEEP}")
    own = Path(chosen or "jobscripts")
    return own if (own / SWEEP).is_file() else installed()


def installed() -> Path:
    """Those that came with this installation."""
    return Path(str(importlib.resources.files("outpace.jobscripts")))


def copy(folder: Path) -> list[Path]:
    """Copy the installed job scripts and presets into a new folder, to be adapted there; the files written."""
    if folder.exists():
        raise UserError(f"{folder} exists; name a folder that does not")
    shutil.copytree(installed(), folder, ignore=shutil.ignore_patterns("__*", "py.typed"))
    return sorted(path for path in folder.rglob("*") if path.is_file())
