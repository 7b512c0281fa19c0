"""`main(run, Config)`: what the last line of every program calls.

Flags, set-up, the timed run, its evaluation and its trace. A program itself knows none of these.
"""

import os
import shlex
import sys
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from mpi4py import MPI

from outpace.benchmarks import problems
from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.machine import any_source, launcher, provenance
from outpace.benchmarks.problems import Problem, Setting, Unshared
from outpace.benchmarks.running import geometry
from outpace.benchmarks.running.assembly import RunFunction
from outpace.benchmarks.running.execution import execute
from outpace.benchmarks.running.plan import Launch, Plan, make_plan, parse_flags
from outpace.benchmarks.running.storage import Unwritten
from outpace.benchmarks.running.watch import deaf, listen
from outpace.benchmarks.trace import checkpoint, parts
from outpace.benchmarks.trace.checkpoint import Checkpoint
from outpace.benchmarks.trace.parts import leftovers
from outpace.comm import agreement, arrays, threads
from outpace.comm.errors import UserError
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
    name = Path(run.__code__.co_filename).stem
    launcher.report(world.rank)
    try:
        config, launch = parse_flags(name, Config, sys.argv[1:], quiet=world.rank > 0)
        code = _main(MeteredComm(world), run, name, config, launch)
    except UserError as error:
        if world.rank == 0:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
        code = 1 if isinstance(error, Unwritten) else 2
    except SystemExit as parsed:  # --help, or a flag that the parser refused on every rank
        code = int(parsed.code or 0)
    except Exception:
        threads.abort(world, traceback.format_exc(), 1)
    _leave(code)


def _leave(code: int) -> NoReturn:
    """Finalise first: an exit code other than 0 would otherwise be an MPI abort, which is for crashes."""
    launcher.announce(code)
    sys.stdout.flush()
    MPI.Finalize()
    deaf()
    sys.exit(code)


def _main(comm: MeteredComm, run: RunFunction, name: str, config: Any, launch: Launch) -> int:
    """The whole of one run on this rank; its exit code."""
    provenance.check_launch(comm.size, launch.ranks)
    # A SPEC may name a file, which some ranks may not see.
    plan = agreement.together(comm, lambda: make_plan(name, config, launch, comm.size))
    if plan.shared:
        threads.check()
        any_source.check(comm)
    generation = comm.bcast(agreement.on_root(comm, lambda: _check_target(plan)))
    resumed = agreement.together(comm, lambda: _resumed(plan, comm.rank, generation)) if generation else None
    xp = arrays.load(launch.backend, comm)
    workers = [comm.rank] if comm.rank < plan.n else []
    setting = Setting(comm, workers, plan.n, launch.split, config.seed, config.dtype, xp)
    shares = problems.build(launch.problem, setting)
    if launch.geometry:
        agreement.together(comm, lambda: geometry.check(shares, config.batch_size))
    servers = plan.layout.servers
    views: list[Problem | Unshared] = [*shares]
    if servers:
        views.append(Unshared(comm, shares))
    if servers > views[0].dim:
        raise UserError(f"--servers is {servers}; the model has {views[0].dim} coordinate(s) to share out")
    derived = agreement.together(comm, lambda: config.derive(views[0]))
    return execute(comm, run, plan, views[0], setting, derived, generation, resumed)


def _check_target(plan: Plan) -> int:
    """The generation of the checkpoint that the run goes on from, 0 for a new run. Raises UserError; on rank 0."""
    try:
        _check_storable(plan)
        return _generation(plan)
    except OSError as error:
        raise UserError(f"--out: {error.filename or plan.target}: {error.strerror}") from None


def _check_storable(plan: Plan) -> None:
    """Refuse what could not be stored at the end. Raises UserError, OSError."""
    for word in shlex.split(provenance.command(plan.layout.ranks)):
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UserError(f"{word!a} is not UTF-8, as all text of a trace must be, its command too") from None
    target, folder = plan.target, plan.target.parent
    if not folder.is_dir():
        raise UserError(f"--out: the folder {folder} does not exist")
    if not os.access(folder, os.W_OK):
        raise UserError(f"--out: the folder {folder} is not writable")
    if os.path.lexists(target) and (target.is_symlink() or not target.is_file()):
        raise UserError(f"--out: {target} is a folder, a link, a device or a pipe, which no trace replaces")
    longest = checkpoint.unfinished(checkpoint.path(target, plan.layout.ranks - 1, 10**9))
    allowed = os.pathconf(folder, "PC_NAME_MAX") - len(longest.name) + len(target.name)
    if (nbytes := len(target.name.encode())) > allowed:
        raise UserError(
            f"--out: the file's name has {nbytes} bytes; it must have at most {allowed} here, "
            "to which the names of parts and checkpoints add"
        )
    with suppress(FileNotFoundError):
        longest.lstat()  # which fails where the path as a whole is too long


def _generation(plan: Plan) -> int:
    """As `_check_target`, by what is there of earlier runs."""
    if parts.running(plan.target):
        raise UserError(f"--out: {plan.target} is being written by another run")
    if plan.launch.overwrite:
        return 0
    generation = checkpoint.common(plan.target, plan.layout.ranks)
    if generation:
        if checkpoint.read(plan.target, 0, generation).counters.config_id == plan.config_id:
            return generation
        raise UserError(
            f"--out: {plan.target} has a checkpoint of a run with other flags; name another file or add --overwrite"
        )
    if plan.target.exists():
        raise UserError(f"--out: {plan.target} exists; name another file or add --overwrite")
    if leftovers(plan.target):
        raise UserError(
            f"--out: parts of a killed run of {plan.target} are left; "
            f"`outpace show --recover {plan.target.parent}` or --overwrite"
        )
    return 0


def _resumed(plan: Plan, rank: int, generation: int) -> Checkpoint:
    """This rank's part of that checkpoint; generations after it, which not all ranks had written, are removed."""
    for later in checkpoint.generations(plan.target, rank):
        if later > generation:
            checkpoint.path(plan.target, rank, later).unlink()
    return checkpoint.read(plan.target, rank, generation)
