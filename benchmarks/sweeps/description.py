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
import io
import itertools
import re
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, Final

from outpace.benchmarks.sweeps.manifest import HEADER, Sweep, read_manifest
from outpace.benchmarks.sweeps.point import Point
from outpace.benchmarks.sweeps.programs import config_of, module_of, name_of, programs
from outpace.benchmarks.sweeps.scripts import installed
from outpace.comm import inputs
from outpace.comm.errors import UserError

RUNS: Final = Path("results/runs")
KEYS: Final = ("programs", "workers", "repetitions", "folder", "flags", "program", "case", "exclude", "slurm")
OWN: Final = ("out", "overwrite", "anew", "ranks")  # flags that a sweep sets itself
OWN_OPTIONS: Final = (  # of sbatch, likewise: what we read of the queue and of sbatch, and other turns, rest on them
    "array",
    "job-name",
    "no-requeue",
    "ntasks",
    "open-mode",
    "output",
    "parsable",
    "requeue",
    "test-only",
)

Values = dict[str, list[Any]]  # of every key, those that it takes in turn


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
        return sweep
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: {error}") from None
    try:
        return _Description(table, path.stem, folder).sweep()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


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


def _check_folder(folder: Path) -> None:
    """UserError where this is something else, or what it holds cannot be seen; it need not exist yet."""
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
        self.folder = folder or Path(_typed(table, "folder", str, str(RUNS / name)))
        self.programs = programs() if table.get("programs") == "all" else _values(table.get("programs"), "programs")
        if not self.programs:
            raise UserError('programs is missing: "all", or a list of ' + ", ".join(programs()))
        for program in self.programs:
            try:
                module_of(str(program))
            except UserError as error:
                raise UserError(f"programs: {error}") from None
        self.repetitions = _typed(table, "repetitions", int, 1)
        if self.repetitions < 1:
            raise UserError(f"repetitions is {self.repetitions}; it must be at least 1")
        self.flags = _table(table.get("flags", {}), "[flags]")
        if "workers" in table:
            self.flags["workers"] = _values(table["workers"], "workers")
        self.cases = [_table(case, "[[case]]") for case in _tables(table, "case")] or [{}]
        own = _typed(table, "program", dict, {})
        for program in own:
            if program not in self.programs:
                raise UserError(f"[program.{program}]: not one of the programs: {', '.join(self.programs)}")
        self.own = {program: _table(own.get(program, {}), f"[program.{program}]") for program in self.programs}
        self.exclusions = [_table(rule, "[[exclude]]") for rule in _tables(table, "exclude")]
        self.slurm = _typed(table, "slurm", dict, {})
        for key, value in self.slurm.items():
            if key in OWN_OPTIONS:
                raise UserError(f"[slurm]: {key} is set by the sweep itself, as are all of {', '.join(OWN_OPTIONS)}")
            if isinstance(value, dict | list) or (key == "throttle" and type(value) is not int):
                raise UserError(
                    f"[slurm]: {key} is {value!r}; it must be {'a number' if key == 'throttle' else 'one value'}"
                )
        self.known = {program: _flags_of(program) for program in self.programs}
        self._check_flags()

    def sweep(self) -> Sweep:
        _check_folder(self.folder)
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
        planner = _Planner(self.folder)
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

    def _settings(self) -> Iterator[tuple[dict[str, Any], tuple[Any, ...]]]:
        """Every point's program, workers and flags, with its place in the order."""
        keys = list(dict.fromkeys([*self.flags, *(key for case in self.cases for key in case)]))
        seeds: Values = {"seed": list(range(self.repetitions))} if self.repetitions > 1 else {}
        for row, program in enumerate(self.programs):
            for number, case in enumerate(self.cases):
                values: Values = seeds | self.flags | case | self.own[program]
                values = {key: each for key, each in values.items() if key == "workers" or key in self.known[program]}
                if "workers" not in values:
                    raise UserError(f"workers is missing for {program}: a number or a list of numbers")
                order = ["seed", *(key for key in keys if key not in ("seed", "workers")), "workers"]
                order += [key for key in values if key not in order]
                axes = [list(enumerate(values.get(key, [None]))) for key in order]
                for chosen in itertools.product(*axes):
                    settings = {key: value for key, (_, value) in zip(order, chosen, strict=True) if key in values}
                    first, *rest = (index for index, _ in chosen)
                    yield {"program": program} | settings, (first, number, *rest, row)

    def _check_flags(self) -> None:
        """Every flag must belong to some program, and none be set twice or by the user against the sweep."""
        everybody = set().union(*self.known.values())
        for where, table, known in [
            ("[flags]", self.flags, everybody),
            *(("[[case]]", case, everybody) for case in self.cases),
            *((f"[program.{program}]", table, self.known[program]) for program, table in self.own.items()),
        ]:
            for key in table:
                if key in OWN:
                    raise UserError(f"{where}: {key} is set by the sweep itself")
                if key == "seed" and self.repetitions > 1:
                    raise UserError(f"{where}: seed is given, and so is repetitions, which sets it; give one of them")
                if key != "workers" and key not in known:
                    raise UserError(f"{where}: unknown flag '{key}'; allowed: {', '.join(sorted(known - set(OWN)))}")
        for rule in self.exclusions:
            for key in rule:
                if key not in everybody | {"program", "workers"}:
                    raise UserError(f"[[exclude]]: unknown flag '{key}'")


class _Planner:
    """Turns settings into points, by the programs' own checks of their flags."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parsed: dict[tuple[str, ...], tuple[Any, Any]] = {}

    def point(self, settings: dict[str, Any]) -> Point:
        from outpace.benchmarks.running.inputs import hashes
        from outpace.benchmarks.running.plan import make_plan
        from outpace.comm.spec import check

        program, workers = settings["program"], settings["workers"]
        where = f"{program}, workers = {workers}"
        if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
            raise UserError(f"{where}: workers must be a whole number of at least 1")
        name = name_of(program)
        rest = {key: value for key, value in settings.items() if key not in ("program", "workers")}
        seed = {key: rest.pop(key) for key in ("seed",) if isinstance(rest.get(key), int)}
        flags = tuple(itertools.chain.from_iterable(_flag(key, value) for key, value in rest.items()))
        try:
            # Parsing takes 50 ms; repetitions differ in the seed only.
            if (program, *flags) not in self._parsed:
                self._parsed[program, *flags] = _parse(name, config_of(program), flags)
            config, launch = self._parsed[program, *flags]
            config = dataclasses.replace(config, **seed)
            check(config)
            ranks = workers + config.servers
            flags_of_all = dataclasses.asdict(config) | dataclasses.asdict(launch)
            plan = make_plan(name, config, launch, ranks, hashes(config, flags_of_all))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        flags += tuple(itertools.chain.from_iterable(_flag(key, value) for key, value in seed.items()))
        target = self.folder / f"{name}-{workers}-{plan.config_id}.h5"
        return Point(plan.config_id, program, ranks, flags, target)


def _parse(program: str, Config: type[Any], flags: Sequence[str]) -> tuple[Any, Any]:
    """The flags' meaning; the parser's box becomes one line."""
    from outpace.benchmarks.running.plan import parse_flags

    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            return parse_flags(program, Config, flags)
    except SystemExit:
        lines = [line.strip("│ ") for line in said.getvalue().splitlines()]
        heading = re.sub(r"[╭╮─]", "", lines[0]).strip() if lines else "refused"
        body = list(itertools.takewhile(lambda line: line and not line.startswith("─"), lines[1:]))
        raise UserError(f"{heading}: {' '.join(body)}") from None


def _flags_of(program: str) -> set[str]:
    """The flags of a program, those common to all included, as TOML keys."""
    from outpace.benchmarks.running.plan import Launch

    both: tuple[Any, ...] = config_of(program), Launch
    return {each.name.replace("_", "-") for flags in both for each in dataclasses.fields(flags)}


def _flag(key: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{key}" if value else f"--no-{key}"]
    return [f"--{key}", str(value)]


def _matches(settings: dict[str, Any], rule: Values) -> bool:
    return all(key in settings and settings[key] in values for key, values in rule.items())


def _typed(table: dict[str, Any], key: str, kind: type, default: Any) -> Any:
    value = table.get(key, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        name = {int: "a whole number", str: "a text", dict: "a table", list: "an array of tables"}[kind]
        raise UserError(f"{key} is {value!r}; it must be {name}")
    return value


def _tables(table: dict[str, Any], key: str) -> list[Any]:
    tables = _typed(table, key, list, [])
    if not all(isinstance(each, dict) for each in tables):
        raise UserError(f"{key} must be an array of tables, each headed [[{key}]]")
    return list(tables)


def _table(table: Any, where: str) -> Values:
    if not isinstance(table, dict):
        raise UserError(f"{where} must be a table")
    return {key.replace("_", "-"): _values(value, f"{where}: {key}") for key, value in table.items()}


def _values(value: Any, where: str) -> list[Any]:
    """A list of plain values; one value is a list of one."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    for each in values:
        if not isinstance(each, str | int | float):
            raise UserError(f"{where} is {each!r}; it must be a text, a number, true or false, or a list of these")
    if isinstance(value, list) and not value:
        raise UserError(f"{where} is an empty list")
    return values
