"""The buffers of large messages: kept from one call of MPI to the next, where the mpich wheel's MPI runs.

Its collectives allocate a buffer as large as the message in every call. Of the C library they get new pages each time,
which the kernel has to clear: an Allreduce of 102 MB touched 12,502 pages on each of two ranks, and took 39 ms of CPU
time. With TUNABLES it touches 1, and takes 13 ms.
"""

import resource
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import mpi4py

if TYPE_CHECKING:
    from mpi4py import MPI

VARIABLE: Final = "GLIBC_TUNABLES"
TUNABLES: Final = (  # allocations from the heap, which keeps what is freed, and lies on huge pages
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967296:glibc.malloc.top_pad=16777216"
)
PROBE: Final = 2**25  # bytes
FEW: Final = 2**25 // 2**12 // 16  # pages of that, of 4 KiB


def default(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to the environment of ranks: TUNABLES where the mpich wheel lies beside mpi4py, nothing where the
    user has chosen."""
    wheel = any(Path(mpi4py.__file__).parents[1].glob("mpich-*.dist-info"))
    return {VARIABLE: TUNABLES} if wheel and VARIABLE not in environment else {}


def touched(comm: "MPI.Intracomm") -> int:
    """How many pages an Allreduce of PROBE bytes touches for the first time that is not the first one, on the rank with
    the most; collective."""
    import numpy as np  # not above: the launcher is no MPI program and has no arrays
    from mpi4py import MPI

    x = np.ones(PROBE // 4, np.float32)
    comm.Allreduce(MPI.IN_PLACE, x)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    comm.Allreduce(MPI.IN_PLACE, x)
    return int(comm.allreduce(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, MPI.MAX))
