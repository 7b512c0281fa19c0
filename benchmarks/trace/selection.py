"""Runs by what they say of themselves: which of many to take, and what tells them apart."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

ALIASES: Final = {"workers": "n_workers", "program": "algorithm"}  # as sweeps call them


def chosen(runs: Sequence[Run], conditions: Iterable[str]) -> list[Run]:
    """The runs that meet the conditions `NAME=VALUE`; of several with one name any may hold. Raises UserError for a
    name that no run has, and where none meets them."""
    wanted: dict[str, list[str]] = {}
    for condition in conditions:
        name, equals, value = condition.partition("=")
        if not equals or not name:
            raise UserError(f"--where {condition}: not of the form NAME=VALUE")
        wanted.setdefault(name, []).append(value)
    left = list(runs)
    for name, values in wanted.items():
        found = {run.path: values_of(run, name) for run in left}
        check_known(name, left, "--where")
        met = [run for run in left if any(_same(text, value) for text in values for value in found[run.path])]
        if not met:
            there = ", ".join(sorted({str(each[0]) for each in found.values() if each}))
            raise UserError(f"--where {name}={values[0]}: no trace has it; among them: {there}")
        left = met
    return left


def check_known(name: str, runs: Sequence[Run], option: str) -> None:
    """Raise UserError where no run has a value of this name."""
    if runs and not any(values_of(run, name) for run in runs):
        known = sorted({*ALIASES, *(key for run in runs for key in (*run.attrs, *run.config))} - {"config"})
        raise UserError(f"{option}: unknown attribute or flag '{name}'; allowed: {', '.join(known)}")


def values_of(run: Run, name: str) -> list[Any]:
    """What the run says under a name: its attribute, then its flag as it was given; empty where it has neither."""
    key = key_of(name)
    if key == "n_nodes" and "hostnames" in run.attrs:
        return [len(set(run.attrs["hostnames"]))]
    if key == "links" and key not in run.attrs:
        return [run.links]
    return [place[key] for place in (run.attrs, run.config) if key in place]


def key_of(name: str) -> str:
    """The name as attributes and flags are stored."""
    return ALIASES.get(name, name.replace("-", "_"))


def _same(text: str, value: Any) -> bool:
    """Whether a text means the value: `0.10` is 0.1, `true` is True, `none` is None; of a SPEC the keys that the text
    has are the value's, which also has those that were left to their defaults."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    if isinstance(value, bool | None):
        return text.lower() == str(value).lower()
    name, _, pairs = text.partition(":")
    there, _, others = str(value).partition(":")
    return text == str(value) or (name == there and set(pairs.split(",")) <= set(others.split(",")))
