"""What carries messages between hosts: a choice that works for the mpich wheel.

Left to itself the wheel's MPICH takes UCX, over which it loses messages that are received from any source, and the
program that waits for one hangs. docs/transports.md has the cause, a program that shows it, and other cures.
"""

from collections.abc import Mapping
from typing import Final

LIBFABRIC_TCP: Final = {"MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp"}
CHOICES: Final = (*LIBFABRIC_TCP, "UCX_TLS")  # whoever has set one of these has chosen a transport
# By these the launcher may reach other hosts: a line of the user's own, or where Hydra looks for hosts.
ELSEWHERE: Final = (
    *("OUTPACE_LAUNCHER", "HYDRA_HOST_FILE", "SLURM_JOB_ID"),
    *("PBS_NODEFILE", "PE_HOSTFILE", "LSB_HOSTS", "LSB_MCPU_HOSTS", "COBALT_NODEFILE"),
)
WHEEL: Final = "https://pypi.org/p/mpich/"  # in what the wheel's library says of itself


def one_host(environment: Mapping[str, str]) -> bool:
    """Whether nothing in the environment may have the launcher reach other hosts."""
    return environment.get("SLURM_JOB_NUM_NODES") == "1" or not any(name in environment for name in ELSEWHERE)


def default(environment: Mapping[str, str], elsewhere: bool = False) -> dict[str, str]:
    """What to add to the environment of ranks: LIBFABRIC_TCP for the wheel's MPI, nothing where the user has chosen.

    Nothing either where all ranks will be on this host, unless `elsewhere` says better: MPI looks at it all the time,
    which costs 0.3 us a message there and brings nothing.
    """
    chosen = any(name in environment for name in CHOICES)
    if chosen or (one_host(environment) and not elsewhere):
        return {}
    from mpi4py import MPI  # not above: namespaces.py, which asks for the constant, is no MPI program

    return LIBFABRIC_TCP if WHEEL in MPI.Get_library_version() else {}
