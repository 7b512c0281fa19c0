"""A sweep as points in their order, and as plain lines: the manifest, which Slurm's job arrays read."""

import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from outpace.benchmarks.sweeps.point import Point
from outpace.comm.errors import UserError

HEADER: Final = "# outpace manifest 1"


END: Final = re.compile(r"# end: ([0-9]{1,9}) points, sha256 ([0-9a-f]{64})")


@dataclass(frozen=True)
class Sweep:
    """The points in the order in which they run: repetitions outermost, so that every stretch of a sweep compares."""

    name: str
    folder: Path
    points: list[Point]
    slurm: dict[str, Any] = field(default_factory=dict)  # options of sbatch
    file: Path = Path()  # where it is described


def manifest(points: Sequence[Point]) -> str:
    """The text of a manifest of these points."""
    lines = [f"{point.id} {shlex.join(point.command)}" for point in points]
    return "\n".join([HEADER, *lines, f"# end: {len(lines)} points, sha256 {_checksum(lines)}"]) + "\n"


def read_manifest(path: Path, text: str | None = None) -> Sweep:
    """The points of a manifest. Raises UserError unless it is whole."""
    first, *lines = (path.read_text() if text is None else text).splitlines() or [""]
    end = END.fullmatch(lines[-1]) if lines else None
    lines = lines[:-1]
    if first != HEADER or not end or int(end[1]) != len(lines) or end[2] != _checksum(lines):
        raise UserError(f"{path}: not a whole manifest: its last line does not fit what is before; write it again")
    points = []
    for line in lines:
        identity, _, _, program, _, ranks, *flags, _, target = shlex.split(line)
        points.append(Point(identity, program, int(ranks), tuple(flags), Path(target)))
    if not points:
        raise UserError(f"{path}: a manifest of no points")
    return Sweep(path.stem, points[0].target.parent, points)


def _checksum(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
