"""Checkpoints: what a rank needs to go on, in a file beside its part, `<target>.part-<rank>.state-<generation>`.

A generation is complete once every rank has written its file; only then is the one before removed. So whenever a job
dies after its first one, there is a generation that all ranks have.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from outpace.benchmarks.trace import blocks
from outpace.benchmarks.trace.files import whole
from outpace.benchmarks.trace.parts import part_path
from outpace.comm.errors import UserError
from outpace.comm.state import Captured

GOES_ON: Final = 75  # exit code of a run that SIGUSR1 ended early with a checkpoint: EX_TEMPFAIL of sysexits.h


@dataclass(frozen=True)
class Counters:
    """Where a rank's run and its trace stand."""

    config_id: str
    inputs: dict[str, str]  # hashes of the files that the run reads
    rounds: int  # of the budget, as this rank counts them
    steps: int  # rows of /steps, or gradients that a server has applied
    gradients: int  # computed: the straggler delays are drawn by their number
    elapsed_s: float  # of the timed part, the same on all ranks
    part_nbytes: int  # of the part file
    snapshots_due: int
    snapshots_stride: int
    messages: list[int]  # sent to each rank
    nbytes: list[int]


@dataclass(frozen=True)
class Checkpoint:
    counters: Counters
    kept: dict[str, Captured]  # by the program


def path(target: Path, rank: int, generation: int) -> Path:
    return part_path(target, rank).with_name(f"{part_path(target, rank).name}.state-{generation}")


def unfinished(file: Path) -> Path:
    """The name of a checkpoint's file until it is whole."""
    return file.with_name(f"{file.name}.unfinished")


def generations(target: Path, rank: int) -> list[int]:
    """The generations of which this rank has a whole file, ascending."""
    return sorted(generation for holder, generation in _written(target) if holder == rank)


def _written(target: Path) -> Iterator[tuple[int, int]]:
    """(rank, generation) of every whole file, by one look at the folder."""
    name = re.compile(re.escape(target.name) + r"\.part-(\d+)\.state-(\d+)")
    for file in target.parent.iterdir():
        if found := name.fullmatch(file.name):
            yield int(found[1]), int(found[2])


def write(target: Path, rank: int, generation: int, checkpoint: Checkpoint) -> None:
    """Write this rank's file, complete or not at all. Raises OSError."""
    arrays = {name: value for name, value in checkpoint.kept.items() if isinstance(value, np.ndarray)}
    about = {
        "counters": asdict(checkpoint.counters),
        "generators": {name: value for name, value in checkpoint.kept.items() if name not in arrays},
        "arrays": [(name, value.dtype.str, value.shape) for name, value in arrays.items()],
    }
    final = path(target, rank, generation)
    with whole(final, unfinished(final)) as file:
        file.write(blocks.pack(0, json.dumps(about).encode()))
        for value in arrays.values():
            file.write(blocks.pack(0, value.tobytes()))


def read(target: Path, rank: int, generation: int) -> Checkpoint:
    """This rank's file. Raises UserError where it is missing or damaged."""
    file = path(target, rank, generation)
    try:
        data = file.read_bytes()
        if data.startswith(blocks.EARLIER):
            raise ValueError("it is of an earlier release, without checksums")
        found, damaged_at = blocks.unpack(data)
        if damaged_at is not None:
            raise ValueError(f"damaged or cut at byte {damaged_at}")
        if not found:
            raise ValueError("cut")
        about: dict[str, Any] = json.loads(found[0][1])
        kept: dict[str, Captured] = dict(about["generators"])
        for (name, dtype, shape), (_, payload) in zip(about["arrays"], found[1:], strict=True):
            kept[name] = np.frombuffer(payload, dtype).reshape(shape).copy()
        return Checkpoint(Counters(**about["counters"]), kept)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"rank {rank}: the checkpoint {file} cannot be read: {error}; --anew starts without it"
        ) from None


def common(target: Path, ranks: int) -> int:
    """The latest generation of which every rank has its file; 0 where there is none."""
    holders: dict[int, set[int]] = {}
    for rank, generation in _written(target):
        holders.setdefault(generation, set()).add(rank)
    return max((generation for generation, held in holders.items() if held.issuperset(range(ranks))), default=0)


def forget(target: Path, rank: int, before: float = math.inf) -> None:
    """Remove this rank's generations before that one."""
    for generation in generations(target, rank):
        if generation < before:
            path(target, rank, generation).unlink()
