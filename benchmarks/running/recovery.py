"""`outpace show --recover`: the parts of killed runs become traces."""

import json
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.running import rebuilt
from outpace.benchmarks.running.finish import Course, finish
from outpace.benchmarks.trace import archive, checkpoint, lock, parts
from outpace.benchmarks.trace.archive import Parts
from outpace.benchmarks.trace.lock import Taken
from outpace.benchmarks.trace.parts import models_path, part_path
from outpace.benchmarks.trace.snapshots import SLOT_S, Snapshots
from outpace.comm import prox
from outpace.comm.errors import UserError
from outpace.comm.layout import Layout

NAME: Final = re.compile(r"(.+)\.part-(?:\d+|merged)(?:\..*)?")  # of whatever stands beside a trace until it is written


def recover(folder: Path) -> Iterator[Path]:
    """Turn the parts of every killed run in `folder` into traces with status "partial"; each file when it is written.

    Runs that still go on are left alone, and so are parts beside a checkpoint, with which the run can go on, and
    damaged parts, of which a trace has what stands before the damage. Raises UserError where there is nothing to
    recover and, after all that can be recovered, with what could not and why.
    """
    try:
        names = {found[1] for path in folder.iterdir() if (found := NAME.fullmatch(path.name))}
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None
    going: list[str] = []
    errors: list[str] = []
    for target in sorted(folder / name for name in names):
        try:
            with lock.held(lock.of(target)):
                if parts.running(target):
                    going.append(target.name)
                    continue
                damage = _recover(target)
        except Taken as taken:
            going.append(f"{target.name} by {taken}")
        except UserError as error:
            errors.append(str(error))
        except OSError as error:
            errors.append(f"{error.filename or target}: {error.strerror or error}")
        except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as error:
            errors.append(f"{target}: its parts are not those of a run: {type(error).__name__}: {error}")
        else:
            yield target
            if damage:
                errors.append(f"{target} has what stood before the damage, its parts are kept: {damage}")
    if len(going) == len(names):
        still = f"; {len(going)} run(s) still go on: {', '.join(going)}" if going else ""
        raise UserError(f"{folder}: no parts of a killed run here{still}")
    if errors:
        raise UserError("; ".join(errors))


def _recover(target: Path) -> str:
    """What was damaged, in words; nothing where all was whole.

    The problem is built again from the recorded configuration, all shares in this process, to evaluate the snapshots
    that all ranks have."""
    if not part_path(target, 0).exists():
        left = ", ".join(path.name for path in parts.leftovers(target))
        raise UserError(f"{target}: the part of rank 0 is missing, without which {left} tell nothing: remove them")
    resumable = bool(checkpoint.generations(target, 0))
    found = Parts.read(target, salvage=True)
    header = found.headers[0]
    attributes = header["attributes"]
    if target.exists() and not (resumable and archive.replaceable(target, attributes["config_id"])):
        raise UserError(f"{target} exists beside its parts: remove the one that is not wanted")
    n, dim, dtype = attributes["n_workers"], attributes["dim"], np.dtype(attributes["dtype"])
    config = json.loads(attributes["config"])
    shares = rebuilt.shares(attributes, str(target), "evaluated")
    layout = Layout(n, len(found.headers) - n)
    held = layout.held(dim)
    damage = list(found.damage.values())
    places = {rank: _place(target, rank, found.headers[rank]) for rank in held}
    stores = []
    for rank, part in held.items():
        capacity = found.headers[rank]["capacity"] if found.started else 0
        stores.append(_store(places[rank], capacity, part.stop - part.start, dtype, damage))
    about = {"status": "partial"} | ({"damage": "; ".join(damage)} if damage else {})
    x_start, reached = shares[0].x0().astype(np.float64), _reached(found, header["per_step"], len(stores))
    course = Course(MPI.COMM_SELF, layout, shares, x_start, list(held.values()), stores, reached)
    keep = resumable or bool(damage)
    finish(course, target, about, prox.parse(config.get("prox", "none")), keep=keep)
    if not keep:
        for place in places.values():
            place.unlink(missing_ok=True)
    return "; ".join(damage)


def _place(target: Path, rank: int, header: dict[str, Any]) -> Path:
    """Where a rank's snapshots are, by its header: beside its part, or in the scratch of its host."""
    return Path(header["models"]) if "models" in header else models_path(target, rank)


def _store(path: Path, capacity: int, dim: int, dtype: np.dtype[Any], damage: list[str]) -> Snapshots:
    """The snapshots that are whole; what is not is said in `damage`."""
    store = Snapshots(0, dim, dtype, per_step=True)
    try:
        store = Snapshots.read(path, capacity, dim, dtype)
    except FileNotFoundError:
        damage.append(f"{path} is not on this host, {platform.node()}")
    except UserError as error:
        damage.append(str(error))
    if store.damaged:
        damage.append(f"{path}: {store.damaged} of its snapshots do not fit their checksums")
    return store


def _reached(found: Parts, per_step: bool, holders: int) -> float:
    """How far all ranks are known, in the unit of the snapshots' tags."""
    if not found.started:
        return 0.0
    steps = found.steps()
    if not per_step:
        return float(min([*found.known_s, steps["t_s"].max(initial=0.0)])) / SLOT_S
    known = steps["t_s"] <= np.array(found.known_s)[steps["rank"]]
    return float(np.bincount(steps["rank"][known], minlength=holders)[:holders].min())
