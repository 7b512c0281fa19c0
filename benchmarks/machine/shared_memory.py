"""The memory by which ranks of one host exchange messages: files that MPI makes in /dev/shm."""

import os
from pathlib import Path
from typing import Final

FOLDER: Final = Path("/dev/shm")
RANK_NBYTES: Final = 8 * 10**6  # for one rank, with some to spare: the mpich wheel maps 5.3 MB


def room() -> str:
    """How much there is, in words."""
    there = os.statvfs(FOLDER)
    free, total = (blocks * there.f_frsize / 1e6 for blocks in (there.f_bavail, there.f_blocks))
    return f"{FOLDER}, which MPI needs, has {free:.0f} of {total:.0f} MB free; a container gets more by --shm-size"


def enough(ranks: int) -> bool:
    """Whether so many ranks can start here."""
    there = os.statvfs(FOLDER)
    return there.f_bavail * there.f_frsize >= ranks * RANK_NBYTES
