"""`main(run, Config)`: what the last line of every program calls.

Flags, set-up, the timed run, its evaluation and its trace. A program itself knows none of these.
"""

import dataclasses
import sys
import traceback
import warnings
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from mpi4py import MPI

from outpace.benchmarks import problems
from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.machine import any_source, launcher, load, namespaces, provenance
from outpace.benchmarks.machine.leaving import leave
from outpace.benchmarks.problems import Problem, Setting, Unshared
from outpace.benchmarks.running import backend, file_hashes, geometry, target
from outpace.benchmarks.running.assembly import RunFunction
from outpace.benchmarks.running.execution import execute
from outpace.benchmarks.running.plan import Launch, Plan, make_plan, parse_flags
from outpace.benchmarks.running.storage import Unwritten
from outpace.benchmarks.running.watch import deaf, listen
from outpace.comm import agreement, arrays, clock, nccl, threads
from outpace.comm.errors import LocalError, UserError
from outpace.comm.meter import MeteredComm


def main(run: RunFunction, Config: type[ProgramConfig]) -> NoReturn:
    """Run one program as this process's command; collective over COMM_WORLD, never returns.

    Exit codes: 0 done, 1 diverged or failed, 2 something for the user to put right; ended early with a checkpoint:
    75 by SIGUSR1, 128 + n by another signal n.
    """
    # Non-finite models are reported once, with step and rank, not by a warning from each operation on them.
    warnings.simplefilter("ignore", RuntimeWarning)
    listen()
    world = MPI.COMM_WORLD
    look = load.Look(world)
    name = Path(run.__code__.co_filename).stem
    launcher.report(world.rank)
    try:
        config, launch = parse_flags(name, Config, sys.argv[1:], quiet=world.rank > 0)
        code = _main(MeteredComm(world), run, name, config, launch, look)
    except LocalError as error:
        threads.abort(world, str(error), 2)
    except UserError as error:
        if world.rank == 0:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
        code = 1 if isinstance(error, Unwritten) else 2
    except SystemExit as parsed:  # --help, or a flag that the parser refused on every rank
        code = int(parsed.code or 0)
    except MemoryError as error:
        threads.abort(world, f"no memory left: {error}", 1)
    except Exception:
        threads.abort(world, traceback.format_exc(), 1)
    _leave(code)


def _leave(code: int) -> NoReturn:
    """Finalise first: an exit code other than 0 would otherwise be an MPI abort, which is for crashes."""
    launcher.announce(code)
    sys.stdout.flush()
    MPI.Finalize()
    deaf()
    leave(code)


def _main(comm: MeteredComm, run: RunFunction, name: str, config: Any, launch: Launch, look: load.Look) -> int:
    """The whole of one run on this rank; its exit code."""
    provenance.check_launch(comm.size, launch.ranks)
    clock.share_cores(comm)
    # A SPEC may name a file, which some ranks may not see.
    flags = dataclasses.asdict(config) | dataclasses.asdict(launch)
    hashes = comm.bcast(agreement.on_root(comm, lambda: file_hashes.of_run(config, flags)))
    plan = agreement.together(comm, lambda: make_plan(name, config, launch, comm.size, hashes))
    if launch.simulate:
        raise UserError("--simulate: `outpace run` simulates all ranks in one process; this is a job of MPI's")
    agreement.together(comm, lambda: namespaces.check_behind(plan.texts["links"]))
    if plan.shared:
        threads.check()
        any_source.check(comm)
    with ExitStack() as until:
        generation = comm.bcast(agreement.on_root(comm, lambda: target.claim(plan, until)))
        return _claimed(comm, run, plan, generation, look)


def _claimed(comm: MeteredComm, run: RunFunction, plan: Plan, generation: int, look: load.Look) -> int:
    """The run, which goes on from the checkpoint of that generation unless it is 0; its name is taken."""
    config, launch = plan.config, plan.launch
    resumed = agreement.together(comm, lambda: target.resumed(plan, comm.rank, generation)) if generation else None
    workers = [comm.rank] if comm.rank < plan.n else []

    def setting(xp: ModuleType) -> Setting:
        return Setting(comm, workers, plan.n, launch.split, config.seed, config.dtype, xp, config.batch_size)

    with namespaces.lifted(comm.rank, comm.size):
        xp, shares, why = backend.chosen(
            comm, launch, config.batch_size, lambda xp: problems.build(launch.problem, setting(xp))
        )
    if launch.fabric == "nccl":
        nccl.connect(comm)
    if why and comm.rank == 0 and not why.endswith(arrays.NO_CUPY):  # without CuPy there was nothing to choose
        print(f"{plan.name}: computes on {xp.__name__}: {why}", file=sys.stderr, flush=True)
    if launch.geometry:
        agreement.together(comm, lambda: geometry.check(shares, config.batch_size))
    views: list[Problem | Unshared] = [*shares]
    if plan.layout.servers:
        views.append(Unshared(comm, shares))
    plan.layout.check(views[0].dim)
    derived = agreement.together(comm, lambda: config.derive(views[0]))
    code = execute(comm, run, plan, views[0], setting(xp), derived, generation, resumed, look, why)
    if launch.fabric == "nccl":
        nccl.disconnect(comm)
    return code
