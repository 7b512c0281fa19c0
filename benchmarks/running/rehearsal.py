"""A rehearsal before the clock starts: what a device compiles at its first use is compiled by then."""

import dataclasses

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.problems import Problem, Unshared
from outpace.benchmarks.running.assembly import Assembly, RunFunction
from outpace.benchmarks.running.plan import Plan
from outpace.benchmarks.trace.snapshots import Snapshots
from outpace.comm import state
from outpace.comm.meter import MeteredComm

STEPS = 2  # the second of which does what is left out in the first one


def rehearse(comm: MeteredComm, run: RunFunction, plan: Plan, problem: Problem | Unshared) -> None:
    """Run the program for a few steps, without delays or a trace, and leave no mark of it; collective.

    A step that comes every `period` steps only comes in each of them.
    """
    config = plan.config
    if "period" in {field.name for field in dataclasses.fields(config)}:
        config = dataclasses.replace(config, period=1)
    launch = dataclasses.replace(
        plan.launch, stragglers="none", compute_time=0.0, time_budget=None, checkpoint_every=None
    )
    calls, before = problem.calls, {name: state.capture(array) for name, array in problem.state().items()}
    apart = MeteredComm(MPI.Intracomm(comm).Dup())
    snapshots = Snapshots(0, problem.dim, np.dtype(config.dtype), per_step=True)
    Assembly(apart, dataclasses.replace(plan, config=config, launch=launch), problem, snapshots, STEPS).run(run)
    apart.Free()
    problem.calls = calls
    for name, array in problem.state().items():
        state.restore(array, before[name])
