"""The ranks of `outpace check`: python -m mpi4py -m outpace.benchmarks.conformance FILE SECONDS CONTRACT...

Rank 0 says of every contract what `check` reads. One that does not come to an end ends the job: by an exception, which
its rank prints in one line, or after so many seconds, with the stacks of all ranks.
"""

import faulthandler
import importlib.util
import json
import sys
import traceback
import warnings
from pathlib import Path
from typing import Final

from mpi4py import MPI

from outpace.benchmarks.conformance.contracts import CONTRACTS
from outpace.benchmarks.conformance.row import Row, row_of
from outpace.benchmarks.conformance.trial import CheckedComm
from outpace.benchmarks.conformance.verdict import FAILS, HOLDS, MARK, NOTHING, UNUSABLE, Broken, NotApplicable, hold
from outpace.benchmarks.machine import launcher
from outpace.comm import agreement, threads
from outpace.comm.errors import UserError

DUMP_S: Final = 0.1  # from one rank's last words to the next one's, which would be mixed


def main() -> None:
    world = MPI.COMM_WORLD
    path, limit_s, names = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    launcher.report(world.rank)
    warnings.simplefilter("ignore", RuntimeWarning)  # a model that is not finite breaks a contract, and that is told
    limit_s += DUMP_S * world.rank
    faulthandler.dump_traceback_later(limit_s, exit=True)
    try:
        row = agreement.together(world, lambda: load(path))
    except UserError as error:
        _say(world, UNUSABLE, path.name, str(error))
        names = []
    for name in names:
        faulthandler.dump_traceback_later(limit_s, exit=True)
        try:
            verdict, why = judge(world, name, row)
        except BaseException as error:  # of this rank alone, perhaps
            threads.abort(world, _line(error, path), 1)
        _say(world, verdict, name, why)


def load(path: Path) -> Row:
    """The row of the program in that file. Raises UserError where it is no program."""
    spec = importlib.util.spec_from_file_location(f"checked.{path.stem}", path)
    assert spec
    assert spec.loader
    program = importlib.util.module_from_spec(spec)
    sys.modules[program.__name__] = program  # where dataclasses look for it
    sys.path.append(str(path.parent))  # what lies beside it can be imported, and hides nothing
    try:
        spec.loader.exec_module(program)
        return row_of(program)
    except UserError:
        raise
    except Exception as error:
        raise UserError(_line(error, path)) from None


def judge(world: MPI.Intracomm, name: str, row: Row) -> tuple[str, str]:
    """(verdict, why) of one contract; collective."""
    comm = CheckedComm(world.Dup())  # of its own: a stray message cannot reach the next one
    try:
        CONTRACTS[name](comm, row)
        comm.Free()
        hold(world, not comm.left, ", ".join(comm.left))
    except NotApplicable as reason:
        return NOTHING, str(reason)
    except Broken as reason:
        return FAILS, str(reason)
    return HOLDS, ""


def _line(error: BaseException, path: Path) -> str:
    """What was raised, and the last line of the program on the way there."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    at = f", line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{at}"


def _say(world: MPI.Intracomm, verdict: str, name: str, why: str) -> None:
    if world.rank == 0:
        print(f"\n{MARK}{json.dumps([verdict, name, why])}", flush=True)


if __name__ == "__main__":
    main()
    MPI.Finalize()
