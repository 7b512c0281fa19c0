"""Archiving a run: the parts of all ranks become one HDF5 file, at the normal end or after a crash."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from outpace.benchmarks.trace import checksums, schema, server_log
from outpace.benchmarks.trace.files import whole
from outpace.benchmarks.trace.parts import Damaged, Segment, leftovers, part_path, read_part
from outpace.benchmarks.trace.run import Run
from outpace.benchmarks.trace.snapshots import SLOT_S
from outpace.comm.clock import Alignment, Offset
from outpace.comm.errors import UserError

CHUNK: Final = 2**12  # rows
# Tables of a part that /steps, /events, /traffic and /links come from, and when what a row tells is over.
ENDS: Final = dict.fromkeys(("steps", "applied", "dropped", "traffic", "links"), "t_s") | {"events": "t_end_s"}
NO_VARIABLE: Final = "This is a netCDF dimension but not a netCDF variable."  # as netCDF marks a scale without data
TIMES: Final = ("t_s", "read_s", "t_start_s", "t_end_s")  # their columns on the rank's clock
Columns = dict[str, np.ndarray]


class Parts:
    """The parts of one run, on rank 0's clock with zero at the start of the timed part.

    Where the run went on from a checkpoint, its segments follow each other without the time between them. `known_s`
    is until when each rank is known. `damage` is in words, by rank; the run is then told until all ranks are known.
    """

    def __init__(self, ranks: Sequence[Sequence[Segment]], damage: Mapping[int, str]) -> None:
        self.damage = damage
        self.headers = [segments[-1].header | _of_all([s.header for s in segments]) for segments in ranks]
        starts_s = [segment.header.get("started_s", np.nan) for segment in ranks[0]]
        self.started = bool(np.isfinite(starts_s[0]))
        self._alignments = [[_alignment(segment.table("offsets")) for segment in segments] for segments in ranks]
        self._tables = []
        for segments, alignments in zip(ranks, self._alignments, strict=True):
            pieces = list(zip(segments, alignments, starts_s, strict=False))
            self._tables.append({name: np.concatenate([_aligned(name, *piece) for piece in pieces]) for name in ENDS})
        self._networks = [[segment.table("network") for segment in segments] for segments in ranks]
        # The traffic ends every flush: what a rank recorded until then is in its part.
        self.known_s = [float(np.fmax.reduce(tables["traffic"]["t_s"], initial=0.0)) for tables in self._tables]
        if damage:
            self._cut()

    @classmethod
    def read(cls, target: Path, salvage: bool = False) -> "Parts":
        """All parts of `target`. Raises UserError where one is missing, unreadable or, unless what stands before is to
        be kept (`salvage`), damaged."""
        ranks: list[Sequence[Segment]] = []
        damage: dict[int, str] = {}
        while not ranks or len(ranks) < ranks[0][0].header["ranks"]:
            rank = len(ranks)
            try:
                ranks.append(read_part(part_path(target, rank)))
            except Damaged as error:
                if not salvage:
                    raise
                ranks.append(error.before)
                damage[rank] = str(error)
        return cls(ranks, damage)

    def _cut(self) -> None:
        """End the run at the first damage: what other ranks did later cannot be told without the rows that are lost."""
        end_s = min(self.known_s[rank] for rank in self.damage)
        for tables in self._tables:
            for name, rows in tables.items():
                tables[name] = rows[rows[ENDS[name]] <= end_s]

    def steps(self) -> Columns:
        """The columns of /steps in the order of time."""
        parts = []
        for rank, tables in enumerate(self._tables):
            rows = len(tables["steps"])
            more = {"rank": np.full(rows, rank), "staleness": np.zeros(rows, dtype=np.int64)}
            parts.append(_columns(tables["steps"]) | more)
        log = server_log.merged(self._tables)
        if log:
            parts = [server_log.told(columns, log, rank) for rank, columns in enumerate(parts)]
        merged = _sorted(_concatenate(parts), "t_s")
        read_s = merged.pop("read_s")
        if not log:
            # Applied anywhere between the read and the use: only the merge sees all workers on one clock.
            t_s = merged["t_s"]
            between = np.searchsorted(t_s, t_s, "left") - np.searchsorted(t_s, read_s, "right")
            merged["staleness"] = np.where(np.isnan(read_s), 0, np.maximum(between, 0))
        elif merged["applied"].all():
            del merged["applied"]
        return merged

    def labels(self) -> np.ndarray | None:
        """Samples of each label that each worker holds, shape (workers, labels); None where there are no labels."""
        counts = [header["labels"] for header in self.headers if header["labels"]]
        return np.array(counts) if counts else None

    def events(self) -> Columns:
        """The columns of /events in the order of their starts."""
        parts = []
        for rank, tables in enumerate(self._tables):
            parts.append(_columns(tables["events"]) | {"rank": np.full(len(tables["events"]), rank)})
        return _sorted(_concatenate(parts), "t_start_s")

    def effort(self, tags: np.ndarray, ended: bool, gradients: np.ndarray) -> Columns:
        """Columns of /evaluations of a synchronous program: gradients, rounds and bytes until `tags`, and to the end
        of a run that ended. Rank 0 takes part in every round, and all rounds are of one size."""
        events = self._tables[0]["events"]
        steps = np.sort(events["step"][np.isin(events["kind"], [schema.KIND[kind] for kind in schema.ROUNDS])])
        rounds = np.searchsorted(steps, tags)
        if ended:
            rounds = np.append(rounds, len(steps))
        sent = self.traffic()["nbytes"].sum() * (rounds / max(1, len(steps)))
        return {"gradients": gradients, "rounds": rounds, "nbytes": np.rint(sent)}

    def traffic(self) -> Columns:
        n = len(self._tables)
        tables = {name: np.zeros((n, n), dtype=np.int64) for name in schema.TABLES["traffic"].columns}
        for sender, rows in enumerate(part["traffic"] for part in self._tables):
            for row in rows:  # cumulative: the last row of a receiver stands
                for name, table in tables.items():
                    table[sender, row["receiver"]] = row[name]
        return tables

    def network(self) -> Columns:
        """The columns of /network, as measured at the last start that came so far."""
        parts = []
        for rank, tables in enumerate(self._networks):
            rows = next(filter(len, reversed(tables)), tables[0])
            parts.append(_columns(rows) | {"a": np.full(len(rows), rank)})
        return _concatenate(parts)

    def links(self) -> Columns:
        """The columns of /links in the order of time; rank 0 has them all."""
        return _sorted(_columns(self._tables[0]["links"]), "t_s")

    def clock(self) -> Columns:
        return {
            "offset_s": np.array([segments[0].start.seconds for segments in self._alignments]),
            "drift": np.array([segments[0].drift for segments in self._alignments]),
            "uncertainty_s": np.array([max(a.uncertainty for a in segments) for segments in self._alignments]),
        }


def evaluation_times(steps: Columns, tags: np.ndarray, per_step: bool, n: int) -> tuple[np.ndarray, np.ndarray]:
    """`t_s` and `samples` of snapshots: when every rank had taken that many steps, or at that moment."""
    if not per_step:
        # Nothing moves a model after the last gradient, while its answer is still on its way to a worker.
        moments = np.minimum(tags * SLOT_S, steps["t_s"].max(initial=0.0))
        return moments, np.concatenate([[0], np.cumsum(steps["samples"])])[
            np.searchsorted(steps["t_s"], moments, "right")
        ]
    moments, samples = np.empty(len(tags)), np.empty(len(tags), dtype=np.int64)
    for i, tag in enumerate(tags):
        moments[i] = steps["t_s"][steps["step"] == tag - 1].max()
        samples[i] = steps["samples"][steps["step"] < tag].sum()
    return moments, samples


def merge(
    parts: Parts,
    target: Path,
    attributes: dict[str, Any],
    tags: np.ndarray,
    values: Columns,
    x_mean: np.ndarray,
    ended: bool,
    geometry: Columns | None = None,
    noise: Columns | None = None,
    overwrite: bool = False,
) -> Path:
    """Write `target` from its parts and the evaluations `values` at the start, at `tags` and, of a run that `ended`, at
    its end. Errors of the disk leave no new target.

    Where the trace was written: a file that is no earlier trace of this run is only replaced to `overwrite` it, else
    the trace gets a name beside it.
    """
    header = parts.headers[0]
    steps = parts.steps()
    used = server_log.used(steps)
    t_s, samples = evaluation_times(used, tags, header["per_step"], header["attributes"]["n_workers"])
    t_s, samples = np.concatenate([[0.0], t_s]), np.concatenate([[0], samples])
    if ended:
        t_s = np.append(t_s, used["t_s"].max(initial=0.0))
        samples = np.append(samples, used["samples"].sum())
    if header["per_step"]:
        values = values | parts.effort(np.append(0, tags), ended, samples / header["attributes"]["n_total"])
    labels = parts.labels()
    attributes = header["attributes"] | {"wall_s": float(steps["t_s"].max(initial=0.0))} | attributes
    epoch = samples / attributes["n_total"]
    groups = {
        "evaluations": {"t_s": t_s, "samples": samples, "epoch": epoch, **values},
        "workers": shares(used, attributes["n_samples"], header.get("averages_workers", False)),
        "steps": steps,
        "events": parts.events(),
        "clock": parts.clock(),
        "model": {"x_mean": x_mean},
    }
    more = {"network": parts.network(), "links": parts.links()}
    groups |= {name: columns for name, columns in more.items() if len(columns["bytes_per_s"])}
    if geometry:
        groups["geometry"] = {"t_s": t_s, "epoch": epoch, **geometry}
    if noise:
        groups["noise"] = noise
    tables = {"traffic": parts.traffic()} | ({} if labels is None else {"labels": {"samples": labels}})
    return write(target, attributes, groups, tables, overwrite or replaceable(target, attributes["config_id"]))


def forget(target: Path) -> None:
    """Remove the part files of a run."""
    for path in leftovers(target):
        path.unlink()


def replaceable(target: Path, config_id: str) -> bool:
    """Whether there is nothing at `target`, or the trace that the run of this id left when it ended early."""
    if not os.path.lexists(target):
        return True
    try:
        run = Run(target)
    except UserError:
        return False
    return run.attrs["status"] == "partial" and run.attrs.get("config_id") == config_id


def shares(steps: Columns, n_samples: Sequence[int], alike: bool = False) -> Columns:
    """The columns of /workers: each worker's share of the samples, and of the gradients that were applied unless the
    updates weigh workers `alike`."""
    amounts, updates = np.array(n_samples), np.bincount(steps["rank"], minlength=len(n_samples))
    if alike:
        updates = np.ones_like(updates)
    return {"data_share": amounts / amounts.sum(), "update_share": updates / max(1, updates.sum())}


def write(
    target: Path,
    attributes: Mapping[str, Any],
    groups: Mapping[str, Columns],
    tables: Mapping[str, Columns],
    replace: bool = True,
) -> Path:
    """Write one trace file, complete or not at all; `groups` hold columns, `tables` arrays of two axes. Its name:
    `target`, or where it is not to `replace` what has this name, a number more."""
    image = io.BytesIO()  # the HDF5 library crashes where the disk is full; a plain write fails with an error
    # The format of HDF5 1.8: older ones have no room for the attributes of thousands of ranks.
    with h5py.File(image, "w", libver=("v108", "v108")) as file:
        about = {**attributes} | {"schema": schema.SCHEMA, "schema_version": schema.VERSION}
        for name, value in (about | {checksums.NAME: checksums.of_attributes(about)}).items():
            file.attrs[name] = value
        for group, columns in groups.items():
            _write_group(file.create_group(group), schema.GROUPS[group], columns, schema.SCALES.get(group, "row"))
        for name, arrays in tables.items():
            _write_table(file.create_group(name), schema.TABLES[name], arrays)
        kind = file["events/kind"]
        kind.attrs["flag_values"] = np.array(list(schema.KIND.values()), dtype=np.int8)
        kind.attrs["flag_meanings"] = " ".join(schema.KIND)
    path, number = target, 1
    while True:
        try:
            with whole(path, target.with_name(f"{target.name}.part-merged"), replace) as merged:
                merged.write(image.getbuffer())
            return path
        except FileExistsError:
            number += 1
            path = target.with_stem(f"{target.stem}-{number}")


def _of_all(headers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the header of a run in several segments says where the last one alone does not tell."""
    if "attributes" not in headers[0]:
        return {}
    first, last = headers[0]["attributes"], headers[-1]["attributes"]
    classes = {header["attributes"]["claim_class"] for header in headers}
    weakest = max(classes, key=schema.CLAIM_CLASSES.index)
    return {"attributes": last | {"started_utc": first["started_utc"], "claim_class": weakest}}


def _aligned(name: str, segment: Segment, alignment: Alignment, start_s: float) -> np.ndarray:
    """A table of a segment, its times in seconds since the start of the timed part, on rank 0's clock."""
    rows = segment.table(name).copy()
    for column in TIMES:
        if column in _columns(rows):
            rows[column] = alignment.to_root(rows[column]) - start_s
    return rows


def _columns(rows: np.ndarray) -> Columns:
    return {name: rows[name] for name in rows.dtype.names or ()}


def _alignment(rows: np.ndarray) -> Alignment:
    offsets = [Offset(*row.tolist()) for row in rows]
    return (
        Alignment(offsets[0], offsets[1] if len(offsets) > 1 else None) if offsets else Alignment(Offset(0.0, 0.0, 0.0))
    )


def _concatenate(parts: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _sorted(columns: Columns, key: str) -> Columns:
    order = np.argsort(columns[key], kind="stable")
    return {name: column[order] for name, column in columns.items()}


def _write_group(group: h5py.Group, described: Mapping[str, schema.Column], columns: Columns, scale: str) -> None:
    length = len(next(iter(columns.values())))
    _write_scale(group, scale, length)
    for name, column in described.items():
        if name not in columns and column.optional:
            continue
        packed: dict[str, Any] = {}
        if length > CHUNK:  # a short column is smaller without the index of its chunks
            packed = {"chunks": (CHUNK,), "shuffle": True, "compression": "gzip", "compression_opts": 1}
        values = columns[name].astype(column.dtype)
        dataset = group.create_dataset(name, data=values, **packed)
        dataset.attrs[checksums.NAME] = checksums.of_column(values)
        dataset.attrs["units"] = column.units
        dataset.attrs["long_name"] = column.long_name
        dataset.dims[0].attach_scale(group[scale])


def _write_scale(group: h5py.Group, scale: str, length: int) -> None:
    if scale in schema.COUNTS_ONLY:
        group.create_dataset(scale, (length,), np.float32)  # nothing is written, so nothing is stored
        group[scale].make_scale(f"{NO_VARIABLE}{length:10d}")
    else:
        group[scale] = np.arange(length)
        group[scale].make_scale(scale)


def _write_table(group: h5py.Group, described: schema.Table, arrays: Columns) -> None:
    (shape,) = {array.shape for array in arrays.values()}
    for scale, length in zip(described.scales, shape, strict=True):
        _write_scale(group, scale, length)
    for name, column in described.columns.items():
        values = arrays[name].astype(column.dtype)
        dataset = group.create_dataset(name, data=values)
        dataset.attrs[checksums.NAME] = checksums.of_column(values)
        dataset.attrs["units"] = column.units
        dataset.attrs["long_name"] = column.long_name
        for axis, scale in enumerate(described.scales):
            dataset.dims[axis].attach_scale(group[scale])
