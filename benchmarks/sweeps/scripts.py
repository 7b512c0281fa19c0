"""Where the job scripts and the preset sweeps are."""

import importlib.resources
import os
import shutil
from pathlib import Path
from typing import Final

from outpace.comm.errors import UserError

SWEEP: Final = "sweep.sbatch"
SITE: Final = "site.env"


def jobscripts(sweep: Path) -> Path:
    """The folder of the job scripts: OUTPACE_JOBSCRIPTS if set, else `jobscripts` here, else beside the file of the
    sweep or above it, else those installed."""
    chosen = os.environ.get("OUTPACE_JOBSCRIPTS")
    if chosen and not _whole(Path(chosen)):
        raise UserError(f"OUTPACE_JOBSCRIPTS is {chosen}, which holds no {SWEEP} and {SITE}")
    places = [Path(chosen)] if chosen else [Path("jobscripts"), *(up / "jobscripts" for up in sweep.resolve().parents)]
    return next(filter(_whole, places), installed())


def _whole(folder: Path) -> bool:
    return all(os.access(folder / name, os.R_OK) for name in (SWEEP, SITE))


def installed() -> Path:
    """Those that came with this installation."""
    return Path(str(importlib.resources.files("outpace.jobscripts")))


def copy(folder: Path) -> list[Path]:
    """Copy the installed job scripts and presets into a new folder, to be adapted there; the files written."""
    if folder.exists():
        raise UserError(f"{folder} exists; name a folder that does not")
    shutil.copytree(installed(), folder, ignore=shutil.ignore_patterns("__*", "py.typed"))
    return sorted(path for path in folder.rglob("*") if path.is_file())
