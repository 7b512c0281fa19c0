"""Sweeps: a TOML file says which runs, and every one of them becomes a point with an id and a command line.

    programs = ["allreduce_sgd", "ad_psgd"]   # or "all"; one of your own by its file: "./my_sgd.py"
    workers = [4, 8]
    repetitions = 10                  # seeds 0 to 9; default 1
    folder = "results/runs/slow"      # default results/runs/<name of the file>

    [flags]                           # of the programs; a list is an axis
    stragglers = ["none", "fixed:rank=0,factor=10"]
    epochs = 10

    [program.d2]                      # in place of [flags] and [[case]] for this program; also `workers`
    topology = "ring:lazy=1"

    [[case]]                          # values that belong together; the cases are one more axis
    workers = 4
    batch-size = 64

    [[exclude]]                       # points with all of these values are left out
    program = "ad_psgd"
    workers = [3, 5]

    [slurm]                           # options of sbatch, true for one without a value; throttle = most tasks of an
    time = "00:30:00"                 # array at a time

A flag goes to the programs that have it; one that no program has is an error. The id of a point is the `config_id` of
its trace, so whether a point is done is told by the trace itself. `workers` excludes the servers of a program.

A manifest is the same in plain lines, one command each, as Slurm's job arrays read it. It ends with a line that says
how many points there are and their checksum, so that a half-written one is known.
"""

import dataclasses
import itertools
import math
import os
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from outpace.benchmarks.sweeps.manifest import HEADER, Sweep, read_manifest
from outpace.benchmarks.sweeps.options import check_options
from outpace.benchmarks.sweeps.planner import Planner, switches_of
from outpace.benchmarks.sweeps.point import Point
from outpace.benchmarks.sweeps.programs import module_of, programs
from outpace.benchmarks.sweeps.scripts import installed
from outpace.benchmarks.sweeps.tables import Values, check_plain, tables_of, typed, values_of, values_of_table
from outpace.comm import inputs
from outpace.comm.errors import UserError

RUNS: Final = Path("results/runs")
KEYS: Final = ("programs", "workers", "repetitions", "folder", "flags", "program", "case", "exclude", "slurm")
OWN: Final = ("out", "overwrite", "anew", "ranks")  # flags that a sweep sets itself
MOST_POINTS: Final = 100_000


def load(path: Path, folder: Path | None = None) -> Sweep:
    """The sweep that a TOML file or a manifest describes; `folder` replaces the file's own.

    Nothing is started or written. Raises UserError: what is wrong, and where.
    """
    path = _found(path)
    text = inputs.text(path, "")
    if text.startswith(HEADER):
        if folder:
            raise UserError(
                f"{path} is a manifest, whose points have their folder; a folder can be given for a TOML file"
            )
        sweep = read_manifest(path, text)
        _check_folder(sweep.folder)
        return dataclasses.replace(sweep, file=path)
    try:
        table = tomllib.loads(text)
        check_plain(table)
    except RecursionError:
        raise UserError(f"{path}: arrays or tables are nested too deeply") from None
    except (ValueError, UserError) as error:  # of tomllib, too, for a number of more than 4,300 digits
        raise UserError(f"{path}: {error}") from None
    try:
        return dataclasses.replace(described(table, path.stem, folder), file=path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def described(table: dict[str, Any], name: str, folder: Path | None = None) -> Sweep:
    """The sweep of a table like a TOML file's, which is named `name`; else as `load`."""
    return _Description(table, name, folder).sweep()


def presets() -> dict[str, Path]:
    """The sweeps that come with OutPace, by name."""
    return {path.stem: path for path in sorted((installed() / "sweeps").glob("*.toml"))}


def _found(path: Path) -> Path:
    known = presets()
    if str(path) in known and not path.is_file():
        return known[str(path)]
    if inputs.flaw(path) != inputs.MISSING:
        return path
    raise UserError(f"{path}: no such file, and no such preset; presets: {', '.join(known)}")


def _expanded(folder: str) -> Path:
    """The folder with what a shell would make of `~` and `$NAME`."""
    path = os.path.expanduser(os.path.expandvars(folder))
    if path.startswith("~") or "$" in path:
        raise UserError(f"folder: '{folder}' names a user or a variable that there is not")
    return Path(path)


def _check_folder(folder: Path) -> None:
    """UserError where this is something else, what it holds cannot be seen, or its name is no word of a command line;
    it need not exist yet."""
    check_plain(str(folder), "folder")
    if str(folder).startswith("-"):
        raise UserError(f"folder: {folder} begins with a dash, as options do")
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"folder: {folder} is not a folder")
        with suppress(FileNotFoundError, NotADirectoryError):
            (folder / "any").stat()
    except OSError as error:
        raise UserError(f"folder: {folder} cannot be searched: {error.strerror}") from None


class _Description:
    """A parsed TOML file on its way to points."""

    def __init__(self, table: dict[str, Any], name: str, folder: Path | None) -> None:
        self.name = name
        unknown = table.keys() - set(KEYS)
        if unknown:
            raise UserError(f"unknown key '{min(unknown)}'; allowed: {', '.join(KEYS)}")
        self.folder = folder or _expanded(typed(table, "folder", str, str(RUNS / name)))
        self.programs = programs() if table.get("programs") == "all" else values_of(table.get("programs"), "programs")
        if not self.programs:
            raise UserError('programs is missing: "all", or a list of ' + ", ".join(programs()))
        for program in self.programs:
            try:
                module_of(str(program))
            except UserError as error:
                raise UserError(f"programs: {error}") from None
        self.repetitions = typed(table, "repetitions", int, 1)
        if self.repetitions < 1:
            raise UserError(f"repetitions is {self.repetitions}; it must be at least 1")
        self.flags = values_of_table(table.get("flags", {}), "[flags]")
        if "workers" in table:
            self.flags["workers"] = values_of(table["workers"], "workers")
        self.cases = [values_of_table(case, "[[case]]") for case in tables_of(table, "case")] or [{}]
        own = typed(table, "program", dict, {})
        for program in own:
            if program not in self.programs:
                raise UserError(f"[program.{program}]: not one of the programs: {', '.join(self.programs)}")
        self.own = {program: values_of_table(own.get(program, {}), f"[program.{program}]") for program in self.programs}
        self.exclusions = [values_of_table(rule, "[[exclude]]") for rule in tables_of(table, "exclude")]
        self.slurm = typed(table, "slurm", dict, {})
        check_options(self.slurm)
        self.known = {program: switches_of(program) for program in self.programs}
        self._check_flags()

    def sweep(self) -> Sweep:
        _check_folder(self.folder)
        number = sum(math.prod(map(len, values.values())) for _, _, values in self._combinations())
        if number > MOST_POINTS:
            raise UserError(f"{number} points, before exclusions; a sweep has at most {MOST_POINTS}")
        excluded = [False] * len(self.exclusions)
        placed = []
        for settings, place in self._settings():
            rules = [k for k, rule in enumerate(self.exclusions) if _matches(settings, rule)]
            for k in rules:
                excluded[k] = True
            if not rules:
                placed.append((place, settings))
        if not all(excluded):
            raise UserError(f"[[exclude]] number {excluded.index(False) + 1} fits no point")
        placed.sort(key=lambda pair: pair[0])
        planner = Planner(self.folder)
        points: dict[str, Point] = {}
        for _, settings in placed:
            point = planner.point(settings)
            if point.id in points:
                raise UserError(
                    f"two points are the same run, id {point.id}: '{points[point.id].label}' and '{point.label}'"
                )
            points[point.id] = point
        if not points:
            raise UserError("no point is left after the exclusions")
        return Sweep(self.name, self.folder, list(points.values()), self.slurm)

    def _combinations(self) -> Iterator[tuple[str, int, dict[str, Sequence[Any]]]]:
        """Every program with the number of each case, and the values whose combinations are its points."""
        common: dict[str, Sequence[Any]] = {"seed": range(self.repetitions)} if self.repetitions > 1 else {}
        common |= self.flags
        for program in self.programs:
            for number, case in enumerate(self.cases):
                values = common | case | self.own[program]
                values = {key: each for key, each in values.items() if key == "workers" or key in self.known[program]}
                if "workers" not in values:
                    raise UserError(f"workers is missing for {program}: a number or a list of numbers")
                yield program, number, values

    def _settings(self) -> Iterator[tuple[dict[str, Any], tuple[Any, ...]]]:
        """Every point's program, workers and flags, with its place in the order."""
        keys = list(dict.fromkeys([*self.flags, *(key for case in self.cases for key in case)]))
        for program, number, values in self._combinations():
            order = ["seed", *(key for key in keys if key not in ("seed", "workers")), "workers"]
            order += [key for key in values if key not in order]
            axes = [list(enumerate(values.get(key, [None]))) for key in order]
            for chosen in itertools.product(*axes):
                settings = {key: value for key, (_, value) in zip(order, chosen, strict=True) if key in values}
                first, *rest = (index for index, _ in chosen)
                yield {"program": program} | settings, (first, number, *rest, self.programs.index(program))

    def _check_flags(self) -> None:
        """Every flag must belong to some program, and none be set twice or by the user against the sweep."""
        everybody = {key: switch for known in self.known.values() for key, switch in known.items()}
        for where, table, known in [
            ("[flags]", self.flags, everybody),
            *(("[[case]]", case, everybody) for case in self.cases),
            *((f"[program.{program}]", table, self.known[program]) for program, table in self.own.items()),
        ]:
            for key, values in table.items():
                if key in OWN:
                    raise UserError(f"{where}: {key} is set by the sweep itself")
                if key == "seed" and self.repetitions > 1:
                    raise UserError(f"{where}: seed is given, and so is repetitions, which sets it; give one of them")
                if key != "workers" and key not in known:
                    raise UserError(
                        f"{where}: unknown flag '{key}'; allowed: {', '.join(sorted(known.keys() - set(OWN)))}"
                    )
                for value in values:
                    if key != "workers" and isinstance(value, bool) != known[key]:
                        allowed = "true or false" if known[key] else "a text or a number"
                        raise UserError(f"{where}: {key} is {value!r}; it must be {allowed}")
        for rule in self.exclusions:
            for key in rule:
                if key not in everybody.keys() | {"program", "workers"}:
                    raise UserError(f"[[exclude]]: unknown flag '{key}'")


def _matches(settings: dict[str, Any], rule: Values) -> bool:
    return all(key in settings and any(_same(settings[key], each) for each in rule[key]) for key in rule)


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)  # true is no 1
