"""Where a step's time goes, statement by statement: `python tests/statements.py [NUMBERS [PROGRAM...]]`.

One rank makes the steps of `outpace micro step --dim`, with a clock read after each statement of the program's loop,
and the same steps by hand. It waits for no other rank, and other processes of a busy machine are in few of its steps:
what is told is the lower quartile of each statement, without the clock's own time. Messages go from the rank to itself,
or to nobody.
"""

import ast
import importlib
import inspect
import sys
import time
from typing import Any

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.micro_step import GAMMA, PASSES, PROGRAMS, ByHand, Constant
from outpace.benchmarks.running.assembly import Assembly
from outpace.benchmarks.running.plan import Launch, make_plan
from outpace.benchmarks.trace.snapshots import Snapshots
from outpace.comm.meter import MeteredComm

NUMBERS = 10**9  # of all steps together


def clocked(program: Any, rows: list[list[int]]) -> tuple[Any, list[str]]:
    """The program's `run`, each of whose steps leaves a row of the clock's readings, and what lies between them."""
    tree = ast.parse(inspect.getsource(program.run))
    (loop,) = (each for each in ast.walk(tree) if isinstance(each, ast.For) and ast.unparse(each.iter) == "budget")
    read = ast.parse("rows_[-1].append(clock_())").body
    body = [*ast.parse("rows_.append([])").body, *read]
    for statement in loop.body:
        body += [statement, *read]
    names = ["for k in budget", *(ast.unparse(statement).splitlines()[0] for statement in loop.body)]
    loop.body = body
    scope = vars(program) | {"rows_": rows, "clock_": time.perf_counter_ns}
    exec(compile(ast.fix_missing_locations(tree), program.__file__, "exec"), scope)
    return scope["run"], names


def main() -> None:
    dim = int(sys.argv[1]) if sys.argv[1:] else 4810
    comm, gradient = MeteredComm(MPI.COMM_SELF), np.random.default_rng(7).standard_normal(dim, np.float32)
    steps = max(100, min(3000, NUMBERS // dim))
    clock = [time.perf_counter_ns() for _ in range(steps)]
    own = np.quantile(np.diff(clock), 0.25)
    for name in sys.argv[2:] or ["allreduce_sgd", "d_psgd", "d2"]:
        program: Any = importlib.import_module(f"outpace.algorithms.{name}")
        rows: list[list[int]] = []
        run, statements = clocked(program, rows)
        plan = make_plan(name, program.Config(step_size=GAMMA, **PROGRAMS[name]), Launch(), 1)
        snapshots = Snapshots(0, dim, gradient.dtype, per_step=True)
        Assembly(comm, plan, Constant(gradient), snapshots, steps).run(run)
        read = np.array(rows)
        spent = np.column_stack([read[1:, 0] - read[:-1, -1], np.diff(read[1:])]) - own
        print(f"{name}, {dim} numbers: {np.quantile(spent.sum(axis=1), 0.25) / 1e3:.1f} us")
        for kind in ("NumPy", "fused"):
            ends, _ = ByHand(comm, gradient, PASSES[kind]).run(name, steps)
            print(f"    {1e6 * np.quantile(np.diff(ends), 0.25):6.2f}  by hand, {kind}")
        for statement, ns in zip(statements, np.quantile(spent, 0.25, axis=0), strict=True):
            print(f"    {ns / 1e3:6.2f}  {statement}")


if __name__ == "__main__":
    main()
