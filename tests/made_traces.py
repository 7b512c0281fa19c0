"""Traces, and parts of killed runs, made of numbers that are known."""

import json
import math
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from mpi4py import MPI

from outpace.benchmarks.trace import schema
from outpace.benchmarks.trace.parts import Part
from outpace.benchmarks.trace.recorder import STEPS, Trace
from outpace.benchmarks.trace.run import Run
from outpace.benchmarks.trace.snapshots import Snapshots

SLOW = "fixed:rank=1,factor=10"


def write_trace(
    path: Path, groups: dict[str, dict[str, Any]], config: dict[str, Any] | None = None, **attrs: Any
) -> Path:
    """A trace after benchmarks/trace/schema.py with these columns; further attributes replace the usual ones."""
    usual = {"schema": schema.SCHEMA, "schema_version": schema.VERSION, "status": "complete", "seed": 0}
    usual |= {"algorithm": "ad_psgd", "problem": "digits:hidden=64", "split": "iid", "stragglers": "none"}
    usual |= {"n_workers": 4, "n_total": 1000, "claim_class": "emulated"}
    usual["config"] = json.dumps({"step_size": 0.1, "batch_size": 32, "compute_time": 0.01} | (config or {}))
    with h5py.File(path, "w") as file:
        file.attrs.update(usual | attrs)
        for name, columns in groups.items():
            write_group(file, name, columns)
    return path


def write_group(file: h5py.File, name: str, columns: dict[str, Any]) -> None:
    """A group of the schema with these columns."""
    group = file.create_group(name)
    rows = len(next(iter(columns.values())))
    scale = group.create_dataset("row", data=np.arange(rows))
    scale.make_scale("row")
    for column, values in columns.items():
        about = (schema.GROUPS.get(name) or schema.TABLES[name].columns)[column]
        data = group.create_dataset(column, data=np.asarray(values, about.dtype))
        data.attrs.update({"units": about.units, "long_name": about.long_name})
        data.dims[0].attach_scale(scale)


def recorder() -> Trace:
    """A trace of one rank that has begun, without snapshots."""
    trace = Trace(MPI.COMM_SELF, Snapshots(0, 3, np.dtype("f8"), per_step=True))
    trace.start(0.0)
    return trace


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
        "gradient_norm_1": 2 * loss,
        "consensus": spread,
        "held_out_loss": 1.1 * loss,
        "accuracy": 1 - loss / 3,
        "suboptimality": loss - 0.01,
        "gradients": samples / 1000,
        "rounds": np.arange(len(t_s)),
    }
    snr = np.exp(-t_s / t_s[-1])
    geometry = {"t_s": t_s, "epoch": evaluations["epoch"], "snr_above": snr / 3, "live": np.ones(len(t_s))}
    geometry |= {
        f"{kind}_density": value * snr for kind, value in (("gradient", 0.4), ("noise", 0.5), ("curvature", 0.3))
    }
    geometry |= {f"snr_p{q}": q / 50 * snr for q in (5, 25, 50, 75, 95)}
    low = np.arange(-4.75, 4.75, 0.5)
    bell = np.diff([math.erf(edge / math.sqrt(2)) / 2 for edge in (*low, 4.75)])
    noise = {"evaluation": np.repeat([0, 39], 2 * len(low)), "coordinate": np.tile(np.repeat([3, 5], len(low)), 2)}
    noise |= {"sigma": np.ones(4 * len(low)), "low": np.tile(low, 4), "share": np.tile(bell, 4)}
    groups = {
        "evaluations": evaluations,
        "geometry": geometry,
        "noise": noise,
        "workers": {"data_share": np.full(n, 1 / n), "update_share": np.bincount(rank, minlength=n) / len(rank)},
        "steps": columns,
        "events": {k: np.concatenate(v)[np.argsort(np.concatenate(events["t_start_s"]))] for k, v in events.items()},
        "traffic": {"nbytes": 40_000 * (1 - np.eye(n)), "messages": 10 * (1 - np.eye(n))},
    }
    more = {"constants": json.dumps({"m": 25, "L": 1.0, "step_size": 0.1})} | more  # as of a finite sum
    return write_trace(path, groups, algorithm=algorithm, n_workers=n, stragglers=stragglers, seed=seed, **more)


def losses(path, loss, t_s=None, besides=None, **more):
    """A trace with these evaluations only; `besides` are further columns of them."""
    t_s = np.arange(len(loss), dtype=float) if t_s is None else t_s
    columns = {"t_s": t_s, "epoch": 2 * np.asarray(t_s), "loss": loss, "consensus": loss} | (besides or {})
    return Run(write_trace(path, {"evaluations": columns}, **more))


def rates(path, samples_per_s, **more):
    """A trace whose two gradients make this rate; n_total is 1000."""
    end = 1000 / samples_per_s
    return Run(write_trace(path, {"steps": {"t_s": [end / 2, end], "samples": [500, 500]}}, **more))


def written(path: Path, rank: int, steps: list[tuple[float, float]], **header: Any) -> None:
    """A part whose steps are (read_s, t_s)."""
    part = Part(path, rank, {"rank": rank, **header})
    rows = np.zeros(len(steps), dtype=STEPS)
    for k, (read_s, t_s) in enumerate(steps):
        rows[k] = (k, t_s, read_s, 0.1, 0.0, 0.0, 0, 4)
    part.append("steps", rows.tobytes())
    part.close()


def rounds(
    path: Path,
    busy: Any,
    transfer: Any = 0.001,
    injected: Any = 0.0,
    rates: Any = None,
    nbytes: int = 1000,
    **more: Any,
) -> Path:
    """A trace of a synchronous program whose workers were busy for so many seconds, shape (n, rounds), before each
    collective, which then took `transfer` seconds, shape (rounds,). `rates` are those of the ranks' links."""
    n, count = np.shape(busy)
    transfer, injected = np.broadcast_to(transfer, count), np.broadcast_to(injected, (n, count))
    end = np.cumsum(np.max(busy, axis=0) + transfer)
    start = np.concatenate([[0.0], end[:-1]])
    events = []
    for r, k in np.ndindex(n, count):
        computed, arrived = start[k] + busy[r][k] - injected[r, k], start[k] + busy[r][k]
        events.append((start[k], r, "compute", computed, k, -1, 0))
        if injected[r, k]:
            events.append((computed, r, "inject", arrived, k, -1, 0))
        events.append((arrived, r, "allreduce", end[k], k, -1, nbytes))
    steps = {"rank": np.tile(np.arange(n), count), "step": np.repeat(np.arange(count), n), "t_s": np.repeat(end, n)}
    steps |= {"compute_s": (np.array(busy) - injected).T.ravel(), "injected_s": injected.T.ravel()}
    steps |= {"wait_s": (end - start - np.array(busy)).T.ravel(), "staleness": np.zeros(n * count)}
    more = {"algorithm": "allreduce_sgd", "progress": "none"} | more
    return _explained(path, n, n, steps, events, rates, nbytes * count, **more)


def paces(
    path: Path,
    cycles: Any,
    injected: Any = 0.0,
    waits: Any = 0.0,
    serving: float | None = None,
    rates: Any = None,
    nbytes: int = 1000,
    exchanges: Any = (),
    seconds: float = 10.0,
    **more: Any,
) -> Path:
    """A trace of an asynchronous program whose workers take so many seconds for a gradient, shape (n,), for `seconds`;
    of these so many were injected, and waited. `exchanges` are (rank, peer, seconds) of communication threads;
    `serving` is what a server takes for a gradient. `rates` are those of the ranks' links."""
    n = len(cycles)
    injected, waits = np.broadcast_to(injected, n), np.broadcast_to(waits, n)
    rows = sorted((k * cycle, r, k - 1) for r, cycle in enumerate(cycles) for k in range(1, 1 + int(seconds / cycle)))
    rank, step = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
    rng = np.random.default_rng(5)
    steps = {"rank": rank, "step": step, "t_s": [row[0] for row in rows]}
    steps |= {"compute_s": (np.array(cycles) - injected - waits)[rank], "injected_s": injected[rank]}
    steps |= {"wait_s": waits[rank], "staleness": rng.poisson(n - 1, len(rank))}
    events = [(t - waits[r], r, "push", t, k, -1, nbytes) for t, r, k in rows]
    if serving is not None:
        events += [(t - serving, n, "push", t, 0, r, nbytes) for t, r, _ in rows]
    for place, (r, peer, lasted) in enumerate(exchanges):
        events.append((0.04 * place, r, "exchange", 0.04 * place + lasted, 0, peer, nbytes))
    ranks = n + (serving is not None)
    more = {"algorithm": "a_psgd" if ranks > n else "ad_psgd", "progress": "wait-free"} | more
    return _explained(path, n, ranks, steps, events, rates, nbytes * len(rank) // n, **more)


def _explained(path: Path, n: int, ranks: int, steps: Any, events: Any, rates: Any, sent: int, **more: Any) -> Path:
    """What `outpace explain` reads; every rank sends `sent` bytes to the next."""
    columns = {"steps": steps | {"samples": np.full(len(steps["rank"]), 32)}}
    start, rank, kind, end, step, peer, nbytes = zip(*sorted(events), strict=True)
    numbers = [schema.KIND[name] for name in kind]
    names = ("rank", "kind", "t_start_s", "t_end_s", "step", "peer", "nbytes")
    columns["events"] = dict(zip(names, (rank, numbers, start, end, step, peer, nbytes), strict=True))
    table = np.roll(np.eye(ranks), 1, axis=1) * sent
    if ranks > n:  # a server, to and from which everything goes
        table = np.zeros((ranks, ranks))
        table[:n, n:] = table[n:, :n].T[:] = sent
    columns["traffic"] = {"nbytes": table, "messages": table > 0}
    if rates is not None:
        a, b = np.triu_indices(ranks, 1)
        columns["network"] = {"a": a, "b": b, "rtt_s": np.full(len(a), 1e-4)}
        columns["network"]["bytes_per_s"] = np.minimum(np.asarray(rates)[a], np.asarray(rates)[b])
    wall_s = float(np.max(steps["t_s"]))
    more = {"hostnames": ["here"] * ranks, "wall_s": wall_s, "n_workers": n, "progress_wait_s": []} | more
    return write_trace(path, columns, **more)
