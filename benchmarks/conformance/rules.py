"""The contracts that are read from the source of a program."""

import ast
from collections.abc import Iterator
from typing import Final

from outpace.benchmarks.conformance.verdict import Broken
from outpace.comm.meter import Counting, CountingNeighbours, MeteredComm, MeteredGraph

MODULES: Final = {"time", "threading", "sys", "os", "queue", "multiprocessing"}
ATTRIBUTES: Final = {"COMM_WORLD", "COMM_SELF", "Request", "Win", "argv", "Barrier"}
FUNCTIONS: Final = {"open", "print", "input"}
SILENT: Final = {"Irecv", "Recv", "Wait", "Test", "Free", "Start", "Status", "Split"}  # MPI's, that send nothing
LAST_LINES: Final = 'if __name__ == "__main__":\n    main(run, Config)'


def reads_like_a_program(source: str) -> None:
    """A docstring, `run(comm, problem, cfg, budget, trace)`, `for k in budget:` in it, and the last lines."""
    tree = ast.parse(source)
    if not ast.get_docstring(tree):
        raise Broken("the file has no docstring")
    run = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "run")
    if [argument.arg for argument in run.args.args] != ["comm", "problem", "cfg", "budget", "trace"]:
        raise Broken(f"line {run.lineno}: run takes comm, problem, cfg, budget, trace, by these names")
    loops = [node for node in ast.walk(run) if isinstance(node, ast.For)]
    if not any(isinstance(loop.iter, ast.Name) and loop.iter.id == "budget" for loop in loops):
        raise Broken(f"line {run.lineno}: run has no loop over its budget")
    if not source.rstrip().endswith(LAST_LINES):
        raise Broken("the last lines are not " + " ".join(LAST_LINES.split()))


def touches_only_its_communicator(source: str) -> None:
    """No COMM_WORLD, argv, files, clocks, threads or windows; every MPI method it calls is one that is metered."""
    tree = ast.parse(source)
    metered = {name for kind in (Counting, CountingNeighbours, MeteredComm, MeteredGraph) for name in vars(kind)}
    for line, module in _imported(tree):
        if module in MODULES:
            raise Broken(f"line {line}: imports {module}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES:
            raise Broken(f"line {node.lineno}: uses {node.attr}")
        if isinstance(node, ast.Name) and node.id in FUNCTIONS:
            raise Broken(f"line {node.lineno}: uses {node.id}")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            method = node.func.attr
            if method[0].isupper() and method not in metered | SILENT:
                raise Broken(f"line {node.lineno}: {method} is not metered")


def _imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, module) of everything that is imported, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, str(node.module)
