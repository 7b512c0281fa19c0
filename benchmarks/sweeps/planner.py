"""From the settings of a point to its command line and id, by the programs' own checks of their flags."""

import dataclasses
import functools
import io
import itertools
import re
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Final, get_type_hints

from outpace.benchmarks import problems
from outpace.benchmarks.problems import digits, splits
from outpace.benchmarks.running import file_hashes
from outpace.benchmarks.running.plan import Launch, make_plan, parse_flags
from outpace.benchmarks.sweeps.point import Point
from outpace.benchmarks.sweeps.programs import config_of, name_of
from outpace.comm import spec
from outpace.comm.errors import UserError

MOST_WORKERS: Final = 2**13  # whose graph is checked as a dense matrix, of half a gigabyte
DEALT: Final = 2**20  # samples, at most, that are dealt to see whether a split can be


class Planner:
    """Turns settings into points."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parsed: dict[tuple[str, ...], tuple[Any, Any]] = {}

    def point(self, settings: dict[str, Any]) -> Point:
        """Raises UserError with the first thing that the program would refuse, as far as that can be told here."""
        program, workers = settings["program"], settings["workers"]
        where = f"{program}, workers = {workers}"
        if type(workers) is not int or not 1 <= workers <= MOST_WORKERS:
            raise UserError(f"{where}: workers must be a whole number of at least 1 and at most {MOST_WORKERS}")
        name = name_of(program)
        rest = {key: value for key, value in settings.items() if key not in ("program", "workers")}
        seed = {key: rest.pop(key) for key in ("seed",) if type(rest.get(key)) is int}
        flags = tuple(_flag(key, value) for key, value in rest.items())
        try:
            # Parsing takes 50 ms; repetitions differ in the seed only.
            if (program, *flags) not in self._parsed:
                self._parsed[program, *flags] = _parse(name, config_of(program), flags)
            config, launch = self._parsed[program, *flags]
            config = dataclasses.replace(config, **seed)
            spec.check(config)
            ranks = workers + config.servers
            flags_of_all = dataclasses.asdict(config) | dataclasses.asdict(launch)
            plan = make_plan(name, config, launch, ranks, file_hashes.of_run(config, flags_of_all))
            _check_split(plan.texts["problem"], plan.texts["split"], workers, config.seed)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        flags += tuple(_flag(key, value) for key, value in seed.items())
        target = self.folder / f"{name}-{workers}-{plan.config_id}.h5"
        return Point(plan.config_id, program, ranks, flags, target)


def switches_of(program: str) -> dict[str, bool]:
    """The flags of a program, those common to all included, as TOML keys, and whether each is true or false."""
    found: dict[str, bool] = {}
    both: tuple[Any, ...] = config_of(program), Launch
    for flags in both:
        hints = get_type_hints(flags)
        found |= {each.name.replace("_", "-"): hints[each.name] is bool for each in dataclasses.fields(flags)}
    return found


def _parse(program: str, Config: type[Any], flags: Sequence[str]) -> tuple[Any, Any]:
    """The flags' meaning; the parser's box becomes one line."""
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            return parse_flags(program, Config, flags)
    except SystemExit:
        lines = [line.strip("│| ") for line in said.getvalue().splitlines()]
        heading = re.sub(r"[╭╮─]", "", lines[0]).strip() if lines else "refused"
        body = list(itertools.takewhile(lambda line: line and not line.startswith("─"), lines[1:]))
        body = [line for line in body if line.strip("-")]  # rules, where the encoding has no box
        raise UserError(f"{heading}: {' '.join(body)}") from None


def _flag(key: str, value: Any) -> str:
    """One word: a value that begins with a dash is no flag of its own."""
    if isinstance(value, bool):
        return f"--{key}" if value else f"--no-{key}"
    return f"--{key}={value}"


@functools.cache
def _check_split(problem: str, split: str, n: int, seed: int) -> None:
    """Deal the samples as a run would, where that takes no making of data. Raises UserError."""
    about = spec.parse(problem, problems.PROBLEMS, "--problem")
    n_total = getattr(about, "samples", None)
    if isinstance(about, digits.Spec) and spec.parse(split, splits.SPLITS, "--split").needs_labels:
        splits.deal(split, _labels(seed), n, seed)
    elif n_total and n_total <= DEALT and not problem.startswith("logistic"):  # whose labels are made with its data
        splits.deal(split, None, n, seed, n_total)


@functools.cache
def _labels(seed: int) -> splits.Labels:
    return digits.images(seed)[0].labels
