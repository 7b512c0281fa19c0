"""What the first server that logged any gradients says of them: which it applied, which it dropped, and when."""

from collections.abc import Mapping, Sequence

import numpy as np

Columns = dict[str, np.ndarray]


def merged(ranks: Sequence[Mapping[str, np.ndarray]]) -> Columns:
    """One log of the tables `applied` and `dropped` of that rank, in the order of time, with a column `applied` of
    truth values; nothing where no rank has any."""
    for tables in ranks:
        applied, dropped = tables["applied"], tables["dropped"]
        rows = np.concatenate([applied, dropped])
        if len(rows):
            order = np.argsort(rows["t_s"], kind="stable")
            log = {name: rows[name][order] for name in rows.dtype.names or ()}
            return log | {"applied": (np.arange(len(rows)) < len(applied))[order]}
    return {}


def told(columns: Columns, log: Columns, worker: int) -> Columns:
    """The steps of a worker with what became of them at the server; cut where its log ends.

    A worker waits for each answer, so its gradients stand in the log in the order of its steps.
    """
    mine = log["worker"] == worker
    known = min(len(columns["step"]), int(mine.sum()))
    columns = {name: column[:known] for name, column in columns.items()}
    return columns | {name: log[name][mine][:known] for name in ("t_s", "staleness", "applied")}


def used(steps: Columns) -> Columns:
    """The rows of /steps without those of gradients that were dropped."""
    return {name: column[steps["applied"]] for name, column in steps.items()} if "applied" in steps else steps
