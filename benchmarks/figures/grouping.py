"""Which runs belong together in a figure."""

import math
from collections.abc import Collection, Sequence
from typing import Any, Final

from outpace.benchmarks.trace.run import NAMES, Run
from outpace.comm.errors import UserError

# Flags that say how long a run is, which seed it has and where it is written.
NOT_SETTINGS: Final = frozenset({"seed", "epochs", "time_budget", "evaluations", "out", "overwrite"})


def check_same_settings(first: Run, run: Run, besides: Collection[str] = ()) -> None:
    for key in sorted((first.config.keys() | run.config.keys()) - NOT_SETTINGS - set(besides)):
        values = first.config.get(key), run.config.get(key)
        if values[0] != values[1]:
            raise difference(first, run, key, *values, "so they cannot stand for the same program")


def difference(first: Run, second: Run, what: str, one: Any, other: Any, so: str) -> UserError:
    return UserError(f"{first.path} and {second.path} differ in {what} ({one}, {other}): {so}")


def grouped(runs: Sequence[Run], *attributes: str) -> list[list[Run]]:
    """The runs by these attributes: programs in the order of NAMES, then by slowness and workers."""
    names = list(NAMES)

    def order(run: Run) -> tuple[Any, ...]:
        algorithm, stragglers = run.attrs["algorithm"], run.attrs["stragglers"]
        place = names.index(algorithm) if algorithm in names else len(names)
        return place, run.name, *slowness(run), stragglers, run.attrs["n_workers"]

    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in sorted(runs, key=order):
        key = tuple(run.name if attribute == "algorithm" else run.attrs[attribute] for attribute in attributes)
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def repetitions(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs grouped into repetitions. Raises UserError where two differ in more than seed and length."""
    groups = grouped(runs, "algorithm", "stragglers", "n_workers")
    for group in groups:
        for run in group[1:]:
            check_same_settings(group[0], run)
    return groups


def slowness(run: Run) -> tuple[float, int]:
    slowed = run.slowed()
    return (math.inf, 0) if slowed is None else (slowed[1], len(slowed[0]))


def compute_per_sample(run: Run) -> float:
    """Seconds of emulated compute per sample, from --compute-time; 0 without."""
    return float(run.config.get("compute_time") or 0) / float(run.config.get("batch_size") or 1)
