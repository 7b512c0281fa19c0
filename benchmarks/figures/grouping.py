"""Which runs belong together in a figure."""

import json
from collections.abc import Collection, Sequence
from typing import Any, Final

from outpace.benchmarks.figures.looks import order_of
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

# Flags that say how long a run is, which seed it has and where it is written.
NOT_SETTINGS: Final = frozenset({"seed", "epochs", "time_budget", "evaluations", "out", "scratch", "overwrite", "anew"})


def grouped(runs: Sequence[Run], *attributes: str) -> list[list[Run]]:
    """The runs by program, or its variant, and these attributes, in the order of all figures."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in sorted(runs, key=order_of):
        key = run.name, *(run.attrs[attribute] for attribute in attributes)
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def repetitions(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs grouped into repetitions. Raises UserError where two differ in more than seed and length."""
    groups = grouped(runs, "stragglers", "n_workers")
    for group in groups:
        for run in group[1:]:
            check_same_settings(group[0], run)
    return groups


def check_same_settings(first: Run, run: Run, besides: Collection[str] = ()) -> None:
    for key in sorted((first.config.keys() | run.config.keys()) - NOT_SETTINGS - set(besides)):
        values = first.config.get(key), run.config.get(key)
        if values[0] != values[1]:
            raise difference(first, run, key, *values, "so they cannot stand for the same program")
    inputs = [json.loads(each.attrs.get("inputs", "{}")) for each in (first, run)]
    for name in inputs[0].keys() & inputs[1].keys():
        values = inputs[0][name][:8], inputs[1][name][:8]
        if values[0] != values[1]:
            raise difference(first, run, f"the contents of {name}", *values, "so they are not of the same run")


def difference(first: Run, second: Run, what: str, one: Any, other: Any, so: str) -> UserError:
    return UserError(f"{first.path} and {second.path} differ in {what} ({one}, {other}): {so}")


def compute_per_sample(run: Run) -> float:
    """Seconds of emulated compute per sample, from --compute-time; 0 without."""
    return float(run.config.get("compute_time") or 0) / float(run.config.get("batch_size") or 1)
