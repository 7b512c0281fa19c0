"""The figures and the reader, over made traces whose numbers are known."""

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from outpace.benchmarks import schema

RESULTS = Path(__file__).parents[2] / "results"
SLOW = "fixed:rank=1,factor=10"


def write_trace(
    path: Path, groups: dict[str, dict[str, Any]], config: dict[str, Any] | None = None, **attrs: Any
) -> Path:
    """A trace after benchmarks/schema.py with these columns; further attributes replace the usual ones."""
    usual = {"schema": schema.SCHEMA, "schema_version": schema.VERSION, "status": "complete", "seed": 0}
    usual |= {"algorithm": "ad_psgd", "problem": "digits:hidden=64", "split": "iid", "stragglers": "none"}
    usual |= {"n_workers": 4, "n_total": 1000, "claim_class": "emulated"}
    usual["config"] = json.dumps({"step_size": 0.1, "batch_size": 32, "compute_time": 0.01} | (config or {}))
    with h5py.File(path, "w") as file:
        file.attrs.update(usual | attrs)
        for name, columns in groups.items():
            group = file.create_group(name)
            rows = len(next(iter(columns.values())))
            scale = group.create_dataset("row", data=np.arange(rows))
            scale.make_scale("row")
            for column, values in columns.items():
                about = schema.GROUPS[name][column]
                data = group.create_dataset(column, data=np.asarray(values, about.dtype))
                data.attrs.update({"units": about.units, "long_name": about.long_name})
                data.dims[0].attach_scale(scale)
    return path


def simulate(
    path: Path,
    algorithm: str = "ad_psgd",
    n: int = 4,
    stragglers: str = "none",
    seed: int = 0,
    steps: int = 120,
    **more: Any,
) -> Path:
    """A trace as a run of 10 ms gradients would leave it: `ad_psgd` and `a_psgd` wait for nobody, others for all."""
    rng = np.random.default_rng([1, seed, n, *algorithm.encode()])
    alone = algorithm in ("ad_psgd", "a_psgd")
    base = 0.01 * (1 + rng.gamma(2.0, 0.02, (n, steps)))
    injected = np.zeros((n, steps))
    if stragglers.startswith("fixed"):
        rank, factor = re.findall(r"=(\d+)", stragglers)
        injected[int(rank)] = (int(factor) - 1) * base[int(rank)]
    busy, exchange = base + injected, 0.0015 * (1 + rng.gamma(2.0, 0.1, (n, steps)))
    if alone:
        end = np.cumsum(busy + 1e-4, axis=1)
        start, done = end - busy, np.minimum(end + exchange, end[:, -1:])
        kept = end <= end[:, -1].min()
        begin = end
    else:
        barrier = np.cumsum(busy.max(axis=0) + exchange.max(axis=0))
        start = np.concatenate([[0.0], barrier[:-1]]) * np.ones((n, 1))
        begin, done = start + busy, barrier * np.ones((n, 1))
        end, kept = done, np.ones((n, steps), bool)
    rank, step = np.nonzero(kept)
    order = np.argsort(end[kept], kind="stable")
    rank, step = rank[order], step[order]
    at = (rank, step)
    ends = np.sort(end[at])
    stale = np.searchsorted(ends, end[at], "left") - np.searchsorted(ends, start[at], "right")
    zeros = np.zeros(len(rank))
    columns = {
        "rank": rank,
        "step": step,
        "t_s": end[at],
        "compute_s": base[at],
        "injected_s": injected[at],
        "wait_s": zeros if alone else (end - start - busy)[at],
        "staleness": stale if alone else zeros,
        "local_writes": zeros,
        "samples": 32 + zeros,
    }
    kinds = [
        ("compute", start, start + base),
        ("inject", start + base, start + busy),
        ("exchange" if algorithm.endswith("d_psgd") else "allreduce", begin, done),
    ]
    events: dict[str, Any] = {column: [] for column in schema.GROUPS["events"]}
    for kind, low, high in kinds:
        some = (high - low)[at] > 0
        for column, values in zip(
            events, [rank, zeros + schema.KIND[kind], low[at], high[at], step, zeros - 1, zeros], strict=True
        ):
            events[column].append(values[some])
    t_s = np.linspace(0, ends[-1], 40)
    samples = 32 * np.searchsorted(ends, t_s, "right")
    loss = (0.08 + 2.2 / (1 + samples / 2500) ** 2) * np.exp(rng.normal(0, 0.06, len(t_s)))
    spread = (
        (0 if algorithm == "allreduce_sgd" else 0.3)
        * (samples > 0)
        * np.exp(-samples / 20000 + rng.normal(0, 0.2, len(t_s)))
    )
    evaluations = {
        "t_s": t_s,
        "samples": samples,
        "epoch": samples / 1000,
        "loss": loss,
        "gradient_norm": loss,
        "consensus": spread,
        "accuracy": 1 - loss / 3,
    }
    groups = {
        "evaluations": evaluations,
        "steps": columns,
        "events": {k: np.concatenate(v) for k, v in events.items()},
    }
    return write_trace(
        path, groups, algorithm=algorithm, n_workers=n, stragglers=stragglers, seed=seed, **more
    )
