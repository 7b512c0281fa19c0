"""A run as an OTF2 archive, for Vampir and the tools of Score-P: a location for each thread, a region for each kind."""

import shutil
from pathlib import Path
from typing import Any, Final

from outpace.benchmarks.trace import lanes, schema
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

PER_SECOND: Final = 10**9  # of the clock
NAME: Final = "traces"  # of the archive; its anchor is traces.otf2, which tools open


def write(path: Path, folder: Path) -> int:
    """Write the trace at `path` as an archive into the new `folder`, event by event; their number. Raises UserError,
    also where the package `otf2` is missing."""
    try:
        import otf2
    except ImportError:
        raise UserError("--otf2 needs the package otf2: pip install outpace[otf2]") from None
    run = Run(path)
    if folder.exists():
        raise UserError(f"{folder} exists; an archive is a new folder")
    if not folder.parent.is_dir():
        raise UserError(f"{folder}: no folder {folder.parent}")
    count, threads = 0, lanes.threads(run)
    until: dict[Any, int] = {}  # of each thread the last tick
    try:
        with otf2.writer.open(str(folder), timer_resolution=PER_SECOND) as archive:
            define = archive.definitions
            paradigm = otf2.Paradigm.USER
            regions = {
                kind: define.region(kind, region_role=otf2.RegionRole.FUNCTION, paradigm=paradigm)
                for kind in schema.KIND
            }
            about = {name: define.attribute(name, name, otf2.Type.INT64) for name in ("step", "peer", "bytes")}
            root = define.system_tree_node(str(run.attrs["algorithm"]))
            groups = {rank: define.location_group(f"rank {rank}", system_tree_parent=root) for rank, _ in threads}
            writers = {(rank, thread): archive.event_writer(thread, group=groups[rank]) for rank, thread in threads}
            for each in lanes.slices(run):
                to, region = writers[each.rank, each.thread], regions[each.kind]
                values = {about["step"]: each.step, about["peer"]: each.peer, about["bytes"]: each.nbytes}
                start = max(_tick(each.start_s), until.get(to, 0))  # else an archive cannot be written
                until[to] = max(_tick(each.end_s), start)
                to.enter(start, region, attributes=values)
                to.leave(until[to], region)
                count += 1
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None
    return count


def _tick(seconds: float) -> int:
    return max(0, round(PER_SECOND * seconds))
