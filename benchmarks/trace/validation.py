"""Whether a file is a trace: the one check behind everything that reads traces, made before anything large is read.

A trace from elsewhere may be cut, edited or made on purpose. Whatever is in it must be in the file itself (no links or
virtual data sets, which make HDF5 open other files), of the schema's types, of shapes that fit one another, and stored
(a shape of 10^12 rows costs a file nothing, and its reader 8 TB). What may be missing is the reader's own affair.
"""

import json
import math
from pathlib import Path
from typing import Any, Final, NoReturn

import h5py
import numpy as np
from numpy.typing import NDArray

from outpace.benchmarks.trace import schema
from outpace.comm import memory
from outpace.comm.errors import UserError

CHOICES: Final = {"status": schema.STATUSES, "claim_class": schema.CLAIM_CLASSES, "progress": schema.PROGRESS}
OBJECTS: Final = ("config", "constants", "answer", "inputs", "parameters", "stated_error")  # attributes of JSON
ORDERED: Final = (("evaluations", "t_s"), ("steps", "t_s"), ("events", "t_start_s"), ("links", "t_s"))
DURATIONS: Final = (("steps", "compute_s"), ("steps", "injected_s"), ("steps", "wait_s"))
LONGEST_S: Final = 1e9  # 31 years: no time is later, and none earlier before the start
POSITIVE: Final = (("network", "rtt_s"), ("network", "bytes_per_s"), ("links", "bytes_per_s"))
RANKS: Final = ("rank", "peer", "a", "b")  # columns
# Of other columns of whole numbers. Sums over all rows are numbers of 64 bits, too, of a million million samples each.
MOST: Final = {"kind": max(schema.KIND.values()), "applied": 1, "samples": 2**40}
COUNT: Final = 2**53  # of all others
LEAST: Final = {"n_workers": 1, "n_total": 1, "dim": 1, "cores": 1, "wall_s": 1e-9, "load": 0}  # of attributes
LARGEST: Final = {"wall_s": LONGEST_S}


def attributes(file: h5py.File, path: Path) -> dict[str, Any]:
    """The schema's attributes that there are, as plain values. Raises UserError where one is not as it should be."""
    found: dict[str, Any] = {}
    kinds: dict[str, Any] = schema.ATTRIBUTES | schema.OPTIONAL_ATTRIBUTES
    for name, kind in kinds.items():
        if name not in file.attrs:
            continue
        value = file.attrs[name]
        plain = value.tolist() if isinstance(value, np.generic | np.ndarray) else value
        item = schema.LISTS.get(name)
        if type(plain) is not kind or (item and not all(type(each) is item for each in plain)):
            _refuse(path, f"attribute {name} is missing or of the wrong type")
        found[name] = "\n".join(map(readable, plain.split("\n"))) if name == "machine" else readable(plain)
    if found.get("schema") != schema.SCHEMA:
        _refuse(path, f"not a trace: its attribute schema is not '{schema.SCHEMA}'")
    if found.get("schema_version") != schema.VERSION:
        _refuse(path, f"schema version {found.get('schema_version')}; this release reads {schema.VERSION}")
    for name in schema.NEEDED:
        if name not in found:
            _refuse(path, f"attribute {name} is missing or of the wrong type")
    for name, allowed in CHOICES.items():
        if found.get(name, allowed[0]) not in allowed:
            _refuse(path, f"{name} is '{found[name]}'; allowed: {', '.join(allowed)}")
    for name, least in LEAST.items():
        most = LARGEST.get(name, math.inf)
        if not least <= found.get(name, least) <= most or found.get(name) == math.inf:
            bounds = f"at least {least:g}" + (f" and at most {most:g}" if name in LARGEST else "")
            _refuse(path, f"{name} is {found[name]}; it must be {bounds}")
    if len(found.get("hostnames", [""] * found["n_workers"])) < found["n_workers"]:
        _refuse(path, f"hostnames has {len(found['hostnames'])} names for {found['n_workers']} workers and the servers")
    if len(found.get("n_samples", [])) not in (0, found["n_workers"]):
        _refuse(path, f"n_samples has {len(found['n_samples'])} numbers for {found['n_workers']} workers")
    return found


def readable(value: Any) -> Any:
    """The value with all that a terminal or a page would act upon, and not show, spelled out in its texts.

    >>> print(readable(["D²", "\\x1b[2J", {"a\\nb": 1}]))
    ['D²', '\\\\x1b[2J', {'a\\\\nb': 1}]
    """
    if isinstance(value, list):
        return [readable(each) for each in value]
    if isinstance(value, dict):
        return {readable(key): readable(each) for key, each in value.items()}
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)


def objects(found: dict[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """What the attributes of JSON hold, by their names. Raises UserError."""
    parsed: dict[str, dict[str, Any]] = {}
    for name in OBJECTS:
        if name not in found:
            continue
        try:
            parsed[name] = readable(json.loads(found[name]))
        except (ValueError, RecursionError):
            _refuse(path, f"attribute {name} is not JSON")
        if not isinstance(parsed[name], dict):
            _refuse(path, f"attribute {name} is no JSON object")
    for flag, least in (("batch_size", 1), ("compute_time", 0), ("wire_bytes", 0)):
        value = parsed["config"].get(flag, least)
        if flag == "wire_bytes" and value is None:  # of no simulated run
            continue
        if type(value) not in (int, float) or not least <= value < math.inf:
            _refuse(path, f"{flag} in the attribute config is {value!r}; it must be a number of at least {least}")
    for name in ("constants", "answer"):
        for key, value in parsed.get(name, {}).items():
            if type(value) not in (int, float, str, type(None)):
                _refuse(path, f"{key} in the attribute {name} is neither a number nor a text")
    if not all(isinstance(digest, str) for digest in parsed.get("inputs", {}).values()):
        _refuse(path, "the attribute inputs has a digest that is no text")
    return parsed


def columns(file: h5py.File, path: Path, found: dict[str, Any]) -> dict[str, set[str]]:
    """The schema's groups that there are, each with its columns. Raises UserError where one is not as it should be."""
    n, ranks = found["n_workers"], len(found.get("hostnames", []))
    lengths = {"workers": n, "labels": n, "clock": ranks, "traffic": ranks, "model": found.get("dim", 0)}
    present: dict[str, set[str]] = {}
    largest = 0, ""  # bytes of a column, and its name: they are read one by one
    tables = {name: (of, 1) for name, of in schema.GROUPS.items()}
    tables |= {name: (table.columns, 2) for name, table in schema.TABLES.items()}
    for name, (schemas, dimensions) in tables.items():
        group = _inside(file, name, path)
        if group is None:
            continue
        if not isinstance(group, h5py.Group):
            _refuse(path, f"/{name} is no group")
        present[name], shapes = set(), set()
        for column, about in schemas.items():
            dataset = _inside(group, column, path)
            if dataset is not None:
                shape = _shape(dataset, about, dimensions, path)
                shapes.add(shape)
                largest = max(largest, (math.prod(shape) * dataset.dtype.itemsize, dataset.name))
                present[name].add(column)
        if len(shapes) > 1:
            _refuse(path, f"the columns of /{name} have different lengths: {sorted(map(str, shapes))}")
        for shape in shapes:
            if lengths.get(name) and shape[0] != lengths[name]:
                _refuse(path, f"/{name} has {shape[0]} rows; by its attributes the run had {lengths[name]}")
            if name == "traffic" and shape[0] != shape[1]:
                _refuse(path, f"/{name} is {shape[0]} x {shape[1]}, and has a row and a column for each rank")
    memory.require(largest[0], f"{path}: {largest[1]}")
    return present


def values(group: str, name: str, column: NDArray[Any], path: Path, found: dict[str, Any]) -> None:
    """Refuse a column of numbers that cannot be, such as ranks that there are not. Raises UserError."""
    if (group, name) in ORDERED and not (np.isfinite(column).all() and (np.diff(column) >= 0).all()):
        _refuse(path, f"the times in /{group}/{name} are not in order")
    if (group, name) in DURATIONS and not (column >= 0).all():
        _refuse(path, f"the times in /{group}/{name} are not all at least 0")
    of = schema.GROUPS[group][name] if group in schema.GROUPS else schema.TABLES[group].columns[name]
    if of.units == "s" and not np.abs(column).max(initial=0) <= LONGEST_S:  # nor is it NaN
        _refuse(path, f"the times in /{group}/{name} are not all numbers below {LONGEST_S:.0e} s")
    if (group, name) in POSITIVE and not ((column > 0) & np.isfinite(column)).all():
        _refuse(path, f"/{group}/{name} has numbers that are not positive and finite")
    if column.dtype.kind == "i":
        ranks = found["n_workers"] if group == "steps" else len(found.get("hostnames", []))
        least = -1 if name == "peer" else 0
        most = ranks - 1 if name in RANKS and ranks else MOST.get(name, COUNT)
        wrong = column[(column < least) | (column > most)]
        if wrong.size:
            _refuse(
                path, f"/{group}/{name} has the number {wrong.flat[0]}; it must be at least {least} and at most {most}"
            )


def _inside(group: h5py.Group, name: str, path: Path) -> Any:
    """What has this name in the group; None where nothing has. Raises UserError for a link, which is not followed."""
    links, place = group.id.links, f"{group.name.rstrip('/')}/{name}"
    if not links.exists(name.encode()):
        return None
    if links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        _refuse(path, f"{place} is a link; a trace holds all of its data itself")
    return group[name]


def _shape(dataset: Any, about: schema.Column, dimensions: int, path: Path) -> tuple[int, ...]:
    """The shape of a column that is stored in the file. Raises UserError."""
    if not isinstance(dataset, h5py.Dataset):
        _refuse(path, f"{dataset.name} is no column")
    name, shape = dataset.name, dataset.shape
    if shape is None or dataset.dtype != np.dtype(about.dtype) or len(shape) != dimensions:
        is_ = "empty" if shape is None else f"{len(shape)}-D {dataset.dtype}"
        _refuse(path, f"{name} is {is_}, not {dimensions}-D {np.dtype(about.dtype)}")
    if dataset.is_virtual or dataset.external:
        _refuse(path, f"{name} has its data in another file; a trace holds all of its data itself")
    stored = dataset.id.get_storage_size()
    if dataset.chunks:
        expected = math.prod(-(-rows // chunk) for rows, chunk in zip(shape, dataset.chunks, strict=True))
        whole = dataset.id.get_num_chunks() == expected
    else:
        whole = stored >= math.prod(shape) * dataset.dtype.itemsize
    if not whole:
        _refuse(path, f"{name} has {shape[0]} rows, of which not all are in the file")
    return tuple(shape)


def _refuse(path: Path, why: str) -> NoReturn:
    raise UserError(f"{path}: {why}")
