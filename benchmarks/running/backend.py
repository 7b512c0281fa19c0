"""The array module of a run: the one that was asked for, or the faster one."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.problems import Problem
from outpace.benchmarks.running.pace import median_gradient_s
from outpace.benchmarks.running.plan import Launch
from outpace.comm import arrays

Build = Callable[[ModuleType], list[Problem]]


def chosen(comm: MPI.Intracomm, launch: Launch, batch_size: int, build: Build) -> tuple[ModuleType, list[Problem], str]:
    """The module, this rank's shares of the problem, which `build` makes of it, and why it was taken, where nobody had
    asked for it; collective.

    `auto` rehearses a gradient of one batch on the CPU and, where every rank has a GPU, there; the slowest worker of
    each counts. Raises UserError on every rank where a GPU was asked for that some rank has not.
    """
    xp = arrays.load(launch.backend, comm, launch.device_messages)
    if launch.backend != "auto":
        return xp, build(xp), ""
    if xp is np:
        return np, build(np), arrays.without_device(comm)
    shares = {module: build(module) for module in (np, xp)}
    seconds = {}
    for module, built in shares.items():
        mine = [median_gradient_s(share, batch_size, comm) for share in built]
        seconds[module] = comm.allreduce(max(mine, default=0.0), MPI.MAX)
    faster = min(seconds, key=lambda module: seconds[module])
    times = " and ".join(f"{1e3 * seconds[module]:.3g} ms on {module.__name__}" for module in shares)
    return faster, shares[faster], f"a gradient takes {times}"
