"""Reading a trace: attributes, columns and the measures that tables and figures share.

run = Run("run.h5")
run.attrs["n_workers"], run.column("steps", "staleness").mean(), run.time_to_loss(0.2)
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from outpace.benchmarks.trace import checksums, schema, titles_before, validation
from outpace.comm import inputs
from outpace.comm.errors import UserError


class Run:
    """One trace. The attributes are read at once, each column when it is first asked for; no file stays open.

    `attrs` holds plain Python values, `config` the resolved flags, `objects` that and the other attributes of JSON.
    Every method raises UserError, with the file's name and the reason, for a file that is missing, damaged or no trace
    of this schema version, see `validation`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self.open() as file:
            self.attrs = validation.attributes(file, self.path)
            self.objects = validation.objects(self.attrs, self.path)
            self._columns = validation.columns(file, self.path, self.attrs)
        if self.attrs.get(checksums.NAME) not in (None, checksums.of_attributes(self.attrs)):
            raise UserError(f"{self.path}: damaged: its attributes do not fit their checksum")
        self.config = self.objects["config"]
        self._read: dict[tuple[str, str], NDArray[Any]] = {}
        # Place and text of what tells it from other runs of its program; a figure may ask for something else.
        self.group = (1, "NCCL") if self.attrs.get("fabric") == "nccl" else (0, "")

    def has(self, group: str, name: str) -> bool:
        return name in self._columns.get(group, ())

    def column(self, group: str, name: str) -> NDArray[Any]:
        """The column's values, shape (rows,); (n, n) in /traffic. Raises UserError where there is none."""
        if not self.has(group, name):
            raise UserError(f"{self.path}: no column {name} in /{group}")
        if (group, name) not in self._read:
            with self.open() as file:
                dataset = file[group][name]
                column = dataset[()]
                if dataset.attrs.get(checksums.NAME) not in (None, checksums.of_column(column)):
                    raise UserError(f"{self.path}: damaged: /{group}/{name} does not fit its checksum")
            validation.values(group, name, column, self.path, self.attrs)
            self._read[group, name] = column
        return self._read[group, name]

    @property
    def name(self) -> str:
        """The program, or the variant of it that ran, by its human name; and its group."""
        return f"{self.title}, {self.group[1]}" if self.group[1] else self.title

    @property
    def title(self) -> str:
        return str(self.attrs.get("title") or titles_before.of(self.attrs["algorithm"], self.config))

    @property
    def links(self) -> str:
        """The SPEC of the links between the ranks; `none` in traces from before there were any."""
        return str(self.attrs.get("links", "none"))

    @property
    def level(self) -> str:
        """The injected delays in words; stragglers other than `fixed` stand as their SPEC."""
        slowed = self.slowed()
        if slowed is None:
            return str(self.attrs["stragglers"])
        ranks, factor = slowed
        if not ranks:
            return "no stragglers"
        return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))} slowed {factor:g}×"

    def slowed(self) -> tuple[tuple[int, ...], float] | None:
        """The slowed ranks and their factor, `((), 1.0)` for `none`; None where no one factor says it."""
        name, _, pairs = self.attrs["stragglers"].partition(":")
        if name == "none":
            return (), 1.0
        if name != "fixed":
            return None
        try:
            values = dict(pair.split("=", 1) for pair in pairs.split(","))
            return tuple(int(rank) for rank in values["rank"].split("+")), float(values["factor"])
        except (KeyError, ValueError):
            return None

    def applied(self, name: str) -> NDArray[Any]:
        """A column of /steps without the rows of gradients that were dropped, as some programs do with late ones."""
        column = self.column("steps", name)
        return column[self.column("steps", "applied") > 0] if self.has("steps", "applied") else column

    def samples_per_s(self) -> float:
        """Samples used by all workers together per second of the timed part, up to the last gradient applied."""
        samples, t_s = self.applied("samples"), self.applied("t_s")
        if not samples.any() or not t_s.max() > 0:
            raise UserError(f"{self.path}: no step of any sample in /steps, so no rate")
        return float(samples.sum() / t_s.max())

    def steps_per_s(self) -> float:
        """Applied gradients of all workers together per second of the timed part, up to the last one."""
        samples = self.applied("samples")
        return self.samples_per_s() * len(samples) / float(samples.sum())

    def busiest_nbytes(self) -> float:
        """Bytes that the busiest rank sends, or receives if that is more, while every worker computes one gradient."""
        return busiest(self, "nbytes")

    def time_by_rank(self) -> dict[str, NDArray[np.float64]]:
        """Seconds of the timed part that each rank spent, by what; each of shape (ranks,), servers last.

        `compute`, `injected` and `wait` are the gradient loop's, the sums of /steps. `exchange` is that of a
        communication thread or a server: the communication in /events that is not in `wait_s`; it overlaps the others.
        `idle` is the time in no event: the program's own arithmetic, and nothing.
        """
        wall_s, ranks = float(self.attrs["wall_s"]), len(self.attrs["hostnames"])
        worker = self.column("steps", "rank")
        rank, kind, step = (self.column("events", name) for name in ("rank", "kind", "step"))
        start, end = (np.clip(self.column("events", name), 0.0, wall_s) for name in ("t_start_s", "t_end_s"))
        named = np.isin(kind, [schema.KIND[name] for name in schema.COMMUNICATION])
        ticket = kind == schema.KIND["wait"]
        spent = {name: np.zeros(ranks) for name in ("compute", "injected", "wait", "exchange", "idle")}
        for r in range(ranks):
            steps, events = worker == r, rank == r
            for name in ("compute", "injected", "wait"):
                spent[name][r] = self.column("steps", f"{name}_s")[steps].sum()
            # The last ticket is waited for after the last step, and in no row of /steps.
            tickets = events & ticket & (step < np.count_nonzero(steps))
            communicating = (end - start)[events & named | tickets].sum()
            spent["exchange"][r] = max(0.0, communicating - spent["wait"][r])
            spent["idle"][r] = wall_s - _covered(start[events], end[events])
        return spent

    def epoch_time(self) -> float:
        """Seconds in which all workers together use n_total samples, at the run's mean rate."""
        return float(self.attrs["n_total"] / self.samples_per_s())

    def time_to_loss(self, target: float) -> float | None:
        """Seconds until the loss first was at or below `target`; None where it never was (a censored run).

        Between the evaluations before and after, the loss is taken as linear in time; after a loss that is
        not finite, the evaluation that met the target counts.
        """
        t_s, loss = self.column("evaluations", "t_s"), self.column("evaluations", "loss")
        met = np.flatnonzero(loss <= target)
        if not len(met):
            return None
        k = int(met[0])
        if k == 0 or not math.isfinite(loss[k - 1]):
            return float(t_s[k])
        share = (loss[k - 1] - target) / (loss[k - 1] - loss[k])
        return float(t_s[k - 1] + share * (t_s[k] - t_s[k - 1]))

    def effort_to(self, ratio: float, column: str = "gradients") -> float:
        """What `column` of /evaluations was when suboptimality was first at most `ratio` of that at the start;
        infinite where it never was."""
        suboptimality = self.column("evaluations", "suboptimality")
        if not len(suboptimality):
            raise UserError(f"{self.path}: no evaluation in /evaluations")
        met = np.flatnonzero(suboptimality <= ratio * suboptimality[0])
        return float(self.column("evaluations", column)[met[0]]) if len(met) else math.inf

    def rounds_per_step(self) -> float:
        """Rounds of communication of a synchronous program, over the steps of a worker."""
        rounds, steps = self.column("evaluations", "rounds"), len(self.column("steps", "step"))
        if not steps or not len(rounds):
            raise UserError(f"{self.path}: no step in /steps, so no rounds per step")
        return float(rounds[-1] * self.attrs["n_workers"] / steps)

    def improved(self) -> bool:
        """Whether the loss stayed finite and fell. Without that no rate of the run is worth telling."""
        loss = self.column("evaluations", "loss")
        return bool(len(loss) and np.isfinite(loss).all() and loss[-1] < loss[0])

    def final_loss(self) -> float:
        return self._last("loss")

    def final_accuracy(self) -> float | None:
        """The share of held-out samples classified correctly at the end; None where the problem has none."""
        return self._last("accuracy") if self.has("evaluations", "accuracy") else None

    def _last(self, name: str) -> float:
        values = self.column("evaluations", name)
        if not len(values):
            raise UserError(f"{self.path}: no evaluation in /evaluations")
        return float(values[-1])

    @contextmanager
    def open(self) -> Iterator[Any]:
        """The file, to read more of it than the other methods do."""
        if reason := inputs.flaw(self.path):
            raise UserError(f"{self.path}: {reason}")
        try:
            # Some parallel file systems have no locks; a finished trace is never written again.
            with h5py.File(self.path, "r", locking="best-effort") as file:
                yield file
        except UserError:
            raise
        except (
            OSError,
            RuntimeError,
            KeyError,
            ValueError,
            TypeError,
            MemoryError,
        ) as error:  # what h5py raises for damaged files
            raise UserError(f"{self.path}: cannot be read as HDF5: {' '.join(str(error).split())}") from None


def load(paths: Iterable[str | Path]) -> list[Run]:
    """The runs of some traces, each once: what has the attributes of one before it is a copy or a link, and is left out
    with a word on standard error. Raises UserError."""
    runs: dict[str, Run] = {}
    for path in dict.fromkeys(map(Path, paths)):
        run = Run(path)
        first = runs.setdefault(json.dumps(run.attrs, sort_keys=True), run)
        if first is not run:
            print(f"{path} is left out: the same run as {first.path}", file=sys.stderr)
    return list(runs.values())


def busiest(run: Run, name: str) -> float:
    """What the busiest rank sends, or receives if that is more, of `nbytes` or `messages` in /traffic while every
    worker computes one gradient."""
    sent, gradients = run.column("traffic", name), len(run.column("steps", "step"))
    if not gradients:
        raise UserError(f"{run.path}: no step in /steps, so no traffic per step")
    return float(max(sent.sum(axis=0).max(), sent.sum(axis=1).max()) * run.attrs["n_workers"] / gradients)


def exchanges_per_gradient(run: Run) -> float | None:
    """Exchanges of the workers' gradient loops and communication threads over their gradients, each averaging of
    two workers counted once; None where the program has none."""
    n, gradients = run.attrs["n_workers"], len(run.column("steps", "rank"))
    rank, kind, peer = (run.column("events", name) for name in ("rank", "kind", "peer"))
    made = (kind == schema.KIND["exchange"]) & (rank < n)
    if not gradients or not made.any():
        return None
    between_two = made & (peer >= 0) & (peer < n)
    return float(made.sum() - between_two.sum() / 2) / gradients


def _covered(start: NDArray[Any], end: NDArray[Any]) -> float:
    """How much time lies in one or more of the intervals from `start`, in ascending order, to `end`; none before 0."""
    reached = np.maximum.accumulate(np.concatenate([[0.0], end]))  # by the intervals before each
    return float(np.maximum(0.0, end - np.maximum(start, reached[:-1])).sum())
