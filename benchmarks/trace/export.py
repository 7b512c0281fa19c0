"""One table of many runs, one row each: for pandas, R and spreadsheets.

Columns are the trace's attributes under their own names, `file`, the measures below, and every flag with its resolved
value as `flag_<name>`. A run without a value has an empty cell, null in Parquet.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from outpace.benchmarks.trace import pairs
from outpace.benchmarks.trace.common_loss import common_loss
from outpace.benchmarks.trace.files import output
from outpace.benchmarks.trace.run import Run, busiest, exchanges_per_gradient, load
from outpace.benchmarks.trace.selection import chosen
from outpace.comm.errors import UserError

# Attributes that say nothing of one run, or are lists.
LEFT_OUT: Final = ("schema", "schema_version", "config", "n_samples", "hostnames", "gpus", "progress_wait_s")

# Columns of /evaluations whose last value is told.
FINAL: Final = ("loss", "held_out_loss", "accuracy", "gradient_norm", "gradient_norm_1", "consensus", "suboptimality")

Row = dict[str, str | int | float | bool | None]


def write_csv(paths: Iterable[Path], out: Path, where: Sequence[str] = (), loss: float | None = None) -> int:
    """Write the table as CSV with one line of column names; its number of rows. The rest is as of `table`."""
    rows = table(paths, where, loss)
    with output(out) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        text.detach()  # flushed, and left open for its owner
    return len(rows)


def write_parquet(paths: Iterable[Path], out: Path, where: Sequence[str] = (), loss: float | None = None) -> int:
    """Write the table as Parquet; its number of rows. Raises UserError where pyarrow is missing, and as `table`."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("--parquet needs pyarrow: pip install outpace[parquet]") from None
    rows = table(paths, where, loss)
    columns = {name: _of_one_type([row[name] for row in rows]) for name in rows[0]}
    with output(out) as file:
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return len(rows)


def table(paths: Iterable[Path], where: Sequence[str] = (), loss: float | None = None) -> list[Row]:
    """One row per trace that meets the conditions `NAME=VALUE`, all with the same keys in the same order.

    Times are told to the `loss`, or for each problem to the common loss of its runs, as in the figure `heterogeneity`.
    Raises UserError for a trace that cannot be read, and where none meets the conditions.
    """
    runs = chosen(load(paths), where)
    targets = dict.fromkeys({run.attrs["problem"] for run in runs}, loss)
    if loss is None:
        targets = {
            problem: _common_loss([run for run in runs if run.attrs["problem"] == problem]) for problem in targets
        }
    rows = [row(run, targets[run.attrs["problem"]]) for run in runs]
    names = dict.fromkeys(name for each in rows for name in each)
    flags = [name for name in names if name.startswith("flag_")]
    order = [*(name for name in names if not name.startswith("flag_")), *sorted(flags)]
    return [{name: each.get(name) for name in order} for each in rows]


def _common_loss(runs: Sequence[Run]) -> float | None:
    finite = [run for run in runs if np.isfinite(run.column("evaluations", "loss")).any()]
    return common_loss(finite) if finite else None


def row(run: Run, target: float | None) -> Row:
    """What one run was and what it reached, the `target` loss among it."""
    steps, applied = len(run.column("steps", "t_s")), len(run.applied("t_s"))
    slowed = run.slowed()
    values: Row = {"file": str(run.path)}
    values |= {name: value for name, value in run.attrs.items() if name not in LEFT_OUT}
    network = pairs.of(run)
    measured = len(network["a"]) > 0
    values |= {
        "links": run.links,
        "network_rtt_s": float(np.median(network["rtt_s"])) if measured else None,
        "network_bytes_per_s": float(np.median(network["bytes_per_s"])) if measured else None,
        "n_ranks": len(run.attrs["hostnames"]),
        "n_nodes": len(set(run.attrs["hostnames"])),
        "slow_ranks": len(slowed[0]) if slowed else None,
        "slow_factor": slowed[1] if slowed else None,
        "gradients": steps,
        "gradients_dropped": steps - applied,
        "samples": int(run.applied("samples").sum()),
        "samples_per_s": run.samples_per_s() if applied else None,
        "epoch_s": run.epoch_time() if applied else None,
    }
    for name in ("compute_s", "injected_s", "wait_s"):
        values[f"{name[:-2]}_mean_s"] = float(run.column("steps", name).mean()) if steps else None
    staleness = run.applied("staleness")
    values["staleness_mean"] = float(staleness.mean()) if len(staleness) else None
    values["staleness_max"] = int(staleness.max()) if len(staleness) else None
    values["exchanges_per_gradient"] = exchanges_per_gradient(run)
    values["busiest_nbytes_per_gradient"] = run.busiest_nbytes() if steps else None
    values["busiest_messages_per_gradient"] = busiest(run, "messages") if steps else None
    for name in FINAL:
        column = run.column("evaluations", name) if run.has("evaluations", name) else np.empty(0)
        values[f"{name}_final"] = float(column[-1]) if len(column) else None
    loss = run.column("evaluations", "loss")
    values["loss_start"] = float(loss[0]) if len(loss) else None
    values["loss_lowest"] = float(np.fmin.reduce(loss)) if len(loss) else None
    values["loss_target"] = target
    values["time_to_loss_s"] = None if target is None else run.time_to_loss(target)
    return values | {f"flag_{name}": _plain(value) for name, value in run.config.items()}


def _plain(value: Any) -> str | int | float | bool | None:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _of_one_type(values: Sequence[Any]) -> list[Any]:
    """Numbers stay numbers; values of different kinds, as one flag may have in two programs, become text."""
    kinds = {type(value) for value in values} - {type(None)}
    if len(kinds) <= 1:
        return list(values)
    to = float if kinds == {int, float} else str
    return [None if value is None else to(value) for value in values]
