"""`python -m outpace.benchmarks.simulating PROGRAM RANKS FLAGS`, which `outpace run` starts for --simulate."""

import importlib
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

from mpi4py import MPI  # which a problem asks for the ranks that hold it, here one

from outpace.benchmarks.machine import launcher
from outpace.benchmarks.running.plan import parse_flags
from outpace.benchmarks.running.storage import Unwritten
from outpace.benchmarks.running.watch import ENDING
from outpace.benchmarks.trace.checkpoint import GOES_ON
from outpace.comm import user_code
from outpace.comm.errors import UserError


def main(arguments: list[str]) -> int:
    """The exit code, as of any run."""
    warnings.simplefilter("ignore", RuntimeWarning)  # as in `program.main`
    module, ranks, *flags = arguments
    name = Path(module).stem if module.endswith(".py") else module.rpartition(".")[2]
    try:
        from outpace.benchmarks.simulating.simulation import simulate  # which needs an extra

        own = Path(module).resolve() if module.endswith(".py") else None
        program: Any = user_code.load(own) if own else importlib.import_module(module)
        config, launch = parse_flags(name, program.Config, flags)
        return simulate(program.run, name, config, launch, int(ranks), flags)
    except ModuleNotFoundError as missing:
        print(f"{name}: --simulate needs {missing.name}, of the extra `simulate`", file=sys.stderr, flush=True)
        return 2
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        return 1 if isinstance(error, Unwritten) else 2
    except MemoryError as error:
        print(f"{name}: no memory left: {error}", file=sys.stderr, flush=True)
        return 1
    except Exception:
        traceback.print_exc()
        return 1


def _leave(number: int, _: object) -> NoReturn:
    """At a signal, with nothing left behind: there are no checkpoints."""
    code = GOES_ON if number == signal.SIGUSR1 else 128 + number
    launcher.announce(code)
    sys.exit(code)


if __name__ == "__main__":
    assert MPI.Is_initialized()
    for number in (*ENDING, signal.SIGUSR1):
        signal.signal(number, _leave)
    launcher.report(0)
    code = main(sys.argv[1:])
    launcher.announce(code)
    sys.exit(code)
