"""`outpace show`: what a trace holds, after a check against the schema."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from rich.console import Console
from rich.table import Table

from outpace.benchmarks.trace import pairs, schema
from outpace.benchmarks.trace.run import Run, exchanges_per_gradient
from outpace.comm.errors import UserError

NARROWEST: Final = 40  # columns of a table, whatever COLUMNS says


def validate(path: Path) -> Run:
    """The trace, whole: raises UserError with the first way in which the file departs from the schema."""
    run = Run(path)
    for name in schema.ATTRIBUTES:
        if name not in run.attrs:
            raise UserError(f"{path}: attribute {name} is missing")
    tables = {name: (of, name in schema.OPTIONAL) for name, of in schema.GROUPS.items()}
    tables |= {name: (table.columns, table.optional) for name, table in schema.TABLES.items()}
    with run.open() as file:
        for group, (columns, optional) in tables.items():
            if optional and group not in file:
                continue
            for name, column in columns.items():
                if run.has(group, name):
                    _check_labels(path, file[group][name], column)
                elif not column.optional:
                    raise UserError(f"{path}: column /{group}/{name} is missing")
    for group, (columns, _) in tables.items():
        for name in columns:
            if run.has(group, name):
                run.column(group, name)
    pairs.of(run)
    return run


def _check_labels(path: Path, dataset: h5py.Dataset, column: schema.Column) -> None:
    """What readers of HDF5 need beside the numbers."""
    if dataset.attrs.get("units") != column.units:
        raise UserError(f"{path}: {dataset.name} has units {dataset.attrs.get('units')!r}, not {column.units!r}")
    if any(len(dimension) == 0 for dimension in dataset.dims):
        raise UserError(f"{path}: {dataset.name} has an axis without a dimension scale")


def show(paths: Sequence[Path]) -> int:
    """Print one summary per trace; 1 if some file is broken, after the others were shown."""
    out, errors, code = console(), Console(stderr=True, emoji=False), 0
    for path in paths:
        try:
            out.print(summary(validate(path)))
        except UserError as error:
            errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
            code = 1
    return code


def console() -> Console:
    """Standard output for tables of names and SPECs, which are no markup of rich's, by a width that can be read."""
    console = Console(markup=False, emoji=False)
    console.width = max(console.width, NARROWEST)
    return console


def summary(run: Run) -> Table:
    """What a person wants to know first about one run."""
    a = run.attrs
    table = Table(title=str(run.path), title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    steps = {name: run.column("steps", name) for name in ("rank", "compute_s", "injected_s", "wait_s")}
    rows: dict[str, Any] = {
        "program": f"{run.name} ({a['algorithm']}), {a['status']}, {a['claim_class']}",
        "workers": f"{a['n_workers']}, {len(set(a['hostnames']))} node(s), {a['cores']} core(s)",
        "arrays": f"{a['backend']} {a['dtype']}",
        "problem": f"{a['problem']}, dim {a['dim']}",
        "data": f"{a['n_total']} samples, {_span(a['n_samples'])} a worker, split {a['split']}",
        "topology": a["topology"],
        "stragglers": a["stragglers"],
        "links": run.links,
        "run": f"{len(steps['rank'])} steps in {a['wall_s']:.3f} s, started {a['started_utc']}, seed {a['seed']}",
        "loss": _course(run, "loss"),
        "gradient norm": _course(run, "gradient_norm"),
        "consensus": _course(run, "consensus"),
    }
    for name in ("constants", "answer"):
        if name in run.objects:
            rows[name] = ", ".join(f"{key} {_short(value)}" for key, value in run.objects[name].items())
    for name in ("gradient_norm_1", "held_out_loss", "accuracy", "suboptimality", "prox_residual"):
        if run.has("evaluations", name):
            rows[name] = _course(run, name)
    if run.has("evaluations", "rounds"):
        gradients, rounds = (run.column("evaluations", name)[-1] for name in ("gradients", "rounds"))
        rows["effort"] = f"{gradients:.5g} passes of gradients, {rounds} rounds of communication"
    if len(steps["rank"]):
        if run.improved():
            rows["samples/s"] = f"{run.samples_per_s():.1f}"
            rows["epoch"] = f"{run.epoch_time():.3f} s"
        else:
            rows["samples/s"] = "not given: the loss did not fall"
        for name in ("compute_s", "injected_s", "wait_s"):
            rows[f"{name[:-2]}, s"] = _of_a_step(steps["rank"], steps[name], a["n_workers"])
        rows["time by rank, %"] = _time_by_rank(run)
        if exchanges := exchanges_per_gradient(run):
            rows["exchanges"] = f"{exchanges:.3g} per gradient"
        staleness = run.applied("staleness")
        if dropped := len(steps["rank"]) - len(staleness):
            rows["dropped"] = f"{dropped} gradients of {len(steps['rank'])}; samples/s and staleness are of the others"
        if len(staleness):
            rows["staleness"] = f"mean {staleness.mean():.2f}, largest {staleness.max()}"
        rows["steps by rank"] = " ".join(map(str, np.bincount(steps["rank"], minlength=a["n_workers"])))
        for name in ("update_share", "data_share"):
            rows[f"{name.replace('_', ' ')}, %"] = " ".join(f"{100 * s:.1f}" for s in run.column("workers", name))
    if run.has("labels", "samples"):
        table_of_labels = run.column("labels", "samples")
        rows["labels by rank"] = "\n".join(" ".join(f"{count:4}" for count in counts) for counts in table_of_labels)
    network = pairs.of(run)
    if len(network["a"]):
        rows["network"] = pairs.in_words(**network)
    if run.has("links", "t_s"):
        rank, rates = run.column("links", "rank"), run.column("links", "bytes_per_s")
        changes = sum(np.count_nonzero(np.diff(rates[rank == r])) for r in set(rank))
        rows["link changes"] = f"{changes}, between {' and '.join(map(pairs.rate, sorted(set(rates))))}"
    sent = run.column("traffic", "nbytes").sum(axis=1)
    messages = run.column("traffic", "messages").sum(axis=1)
    rows["sent"] = (
        f"{sent.sum() / 1e6:.3f} MB in {messages.sum()} messages; busiest rank {sent.max(initial=0) / 1e6:.3f} MB"
    )
    if a["progress"] != "none":
        answered = zip(schema.PROGRESS_LOADS, a["progress_wait_s"], strict=True)
        rows["progress"] = f"{a['progress']}; answer, ms: " + ", ".join(f"{load} {1e3 * s:.2g}" for load, s in answered)
    rows["versions"] = (
        f"outpace {a['outpace_version']} ({a['git_commit'][:12]}), {a['mpi_library']}, numpy {a['numpy_version']}"
    )
    rows["command"] = a["command"]
    for name, text in rows.items():
        table.add_row(name, str(text))
    return table


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _course(run: Run, name: str) -> str:
    values = run.column("evaluations", name)
    return f"{values[0]:.5g} -> {values[-1]:.5g} ({len(values)} evaluations)" if len(values) else "not evaluated"


def _of_a_step(rank: np.ndarray, values: np.ndarray, n: int) -> str:
    """The median of each rank, as one number where they are alike within one percent, and quantiles of all steps: the
    few of a slow rank are in none of these."""
    medians = [np.median(values[rank == r]) if (rank == r).any() else np.nan for r in range(n)]
    alike = n > 1 and max(medians) - min(medians) <= 0.01 * max(medians)
    told = f"{np.median(medians):.4g} each" if alike else " ".join(f"{median:.4g}" for median in medians)
    return "medians by rank {}; of all p5 {:.4g}, p95 {:.4g}".format(told, *np.quantile(values, [0.05, 0.95]))


def _time_by_rank(run: Run) -> str:
    """A line for each kind of time, in percent of the run: one number where the ranks are alike within one percent."""
    lines = []
    for name, seconds in run.time_by_rank().items():
        percent = 100 * seconds / run.attrs["wall_s"]
        if len(percent) > 1 and np.ptp(percent) < 1:
            told = f"{percent.mean():.1f} each"
        else:
            told = " ".join(f"{share:.1f}" for share in percent)
        lines.append(f"{name:8} {told}")
    return "\n".join(lines)


def _span(values: Sequence[int]) -> str:
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)} to {max(values)}"
