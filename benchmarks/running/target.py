"""The name of a run: that it can be written, who may write it, and what an earlier run left there."""

import os
import shlex
from contextlib import ExitStack, suppress

from outpace.benchmarks.machine import provenance
from outpace.benchmarks.running import file_hashes
from outpace.benchmarks.running.plan import Plan
from outpace.benchmarks.trace import checkpoint, lock, parts
from outpace.benchmarks.trace.checkpoint import Checkpoint
from outpace.benchmarks.trace.lock import Taken
from outpace.comm.errors import UserError


def claim(plan: Plan, until: ExitStack) -> int:
    """Take the plan's target for this run, `until` the stack is closed; on rank 0. Nothing of an earlier run is read,
    and nothing removed, before.

    The generation of the checkpoint that the run goes on from, 0 for a new run. Raises UserError.
    """
    try:
        _check_storable(plan)
        until.enter_context(lock.held(lock.of(plan.target)))
        return _generation(plan)
    except Taken as taken:
        raise UserError(f"--out: {plan.target} is being written by another run, {taken}") from None
    except OSError as error:
        raise UserError(f"--out: {error.filename or plan.target}: {error.strerror}") from None


def resumed(plan: Plan, rank: int, generation: int) -> Checkpoint:
    """This rank's part of that checkpoint; generations after it, which not all ranks had written, are removed. Raises
    UserError."""
    for later in checkpoint.generations(plan.target, rank):
        if later > generation:
            checkpoint.path(plan.target, rank, later).unlink()
    return checkpoint.read(plan.target, rank, generation)


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
    """As `claim`, by what is there of earlier runs."""
    from outpace.benchmarks.trace import archive  # and h5py, which is slow and only rank 0 needs

    target, overwrite = plan.target, plan.launch.overwrite
    if parts.running(target):  # ranks that outlive their rank 0 write on without its lock
        raise UserError(f"--out: {target} is being written by another run")
    if plan.launch.anew:
        return 0
    generation = checkpoint.common(target, plan.layout.ranks)
    before = checkpoint.read(target, 0, generation).counters if generation else None
    if before and before.config_id == plan.config_id:
        if not (overwrite or archive.replaceable(target, plan.config_id)):
            raise UserError(
                f"--out: {target} is no trace of the run whose checkpoint it has; move it or add --overwrite"
            )
        return generation
    if overwrite:
        return 0
    if before:
        changed = file_hashes.changed(before.inputs, plan.inputs)
        other = f"before {' and '.join(changed)} changed" if changed else "with other flags"
        raise UserError(f"--out: {target} has a checkpoint of a run {other}; name another file or add --overwrite")
    if target.exists():
        raise UserError(f"--out: {target} exists; name another file or add --overwrite")
    if parts.part_path(target, 0).exists():
        raise UserError(
            f"--out: parts of a killed run of {target} are left; "
            f"`outpace show --recover {target.parent}` or --overwrite"
        )
    if left := parts.leftovers(target):
        raise UserError(f"--out: {left[0].name} is left of a killed run, which is not enough for a trace; --overwrite")
    return 0
