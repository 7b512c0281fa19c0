"""Which runs belong together in a figure."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

from outpace.benchmarks.figures.looks import level_of, order_of
from outpace.benchmarks.trace.run import Run
from outpace.benchmarks.trace.selection import check_known, values_of
from outpace.comm.errors import UserError

SIZE: Final = ("cores", "n_nodes")  # of the machine, which may grow with the workers
# What of the machine and the software two repetitions have in common.
SURROUNDINGS: Final = (
    "outpace_version",
    "git_commit",
    "mpi_library",
    "thread_level",
    "cpu_model",
    *SIZE,
    "gpu",
    "backend",
    "python_version",
    "numpy_version",
    "mpi4py_version",
    "cupy_version",
)
# Flags that say how long a run is, which seed it has and where it is written.
NOT_SETTINGS: Final = frozenset({"seed", "epochs", "time_budget", "evaluations", "out", "scratch", "overwrite", "anew"})


def grouped(runs: Sequence[Run], *besides: Callable[[Run], Any]) -> list[list[Run]]:
    """The runs by program, or its variant, and what these functions tell of them, in the order of all figures."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in sorted(runs, key=order_of):
        groups.setdefault((run.name, *(tell(run) for tell in besides)), []).append(run)
    return list(groups.values())


def repetitions(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs grouped into repetitions. Raises UserError where two differ in more than seed and length, their machine
    and software included."""
    groups = grouped(runs, level_of, lambda run: run.attrs["n_workers"])
    for group in groups:
        for run in group[1:]:
            check_same_settings(group[0], run)
    return groups


def check_same_settings(first: Run, run: Run, besides: Collection[str] = ()) -> None:
    flags = sorted((first.config.keys() | run.config.keys()) - NOT_SETTINGS - {"links"} - set(besides))
    _check_same(first, run, [(key, first.config.get(key), run.config.get(key)) for key in flags])
    if "links" not in besides:
        _check_same(first, run, [("links", first.links, run.links)])
    one, other = (each.objects.get("inputs", {}) for each in (first, run))
    for name in sorted(one.keys() & other.keys()):
        if one[name] != other[name]:
            contents = f"the contents of {name}", one[name][:8], other[name][:8]
            raise difference(first, run, *contents, "so they are not of the same run")
    check_same_surroundings(first, run)


def check_same_surroundings(first: Run, run: Run, besides: Collection[str] = ()) -> None:
    """Raise UserError where two runs of one curve were made by different machines or software."""
    _check_same(first, run, [(key, _first(first, key), _first(run, key)) for key in SURROUNDINGS if key not in besides])


def _check_same(first: Run, run: Run, values: Iterable[tuple[str, Any, Any]]) -> None:
    for key, one, other in values:
        if one != other:
            raise difference(first, run, key, one, other, f"so they cannot share a curve; {apart(key)}")


def group_by(name: str, runs: Sequence[Run]) -> None:
    """Have the runs told apart by this attribute or flag, in names and looks; those without it come first, and keep
    their names. Raises UserError where none has it."""
    check_known(name, runs, "--group-by")
    values = {run.path: _first(run, name) for run in runs}
    told = {value for value in values.values() if value is not None}
    order = sorted(told) if all(isinstance(value, int | float) for value in told) else sorted(told, key=str)
    for run in runs:
        value = values[run.path]
        run.group = (0, "") if value is None else (1 + order.index(value), f"{name} {value}")


def _first(run: Run, name: str) -> Any:
    return next(iter(values_of(run, name)), None)


def difference(first: Run, second: Run, what: str, one: Any, other: Any, so: str) -> UserError:
    return UserError(f"{first.path} and {second.path} differ in {what} ({one}, {other}): {so}")


def apart(name: str) -> str:
    """How runs that differ in an attribute or flag come into figures all the same."""
    return f"--group-by {name} draws a curve for each, --where {name}=VALUE takes one"


def compute_per_sample(run: Run) -> float:
    """Seconds of emulated compute per sample, from --compute-time; 0 without."""
    return float(run.config.get("compute_time") or 0) / float(run.config.get("batch_size") or 1)
