"""One run on this rank, from its open part file to the merged trace."""

import dataclasses
import datetime
import json
import os
import platform
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.machine import async_progress, provenance
from outpace.benchmarks.problems import Problem, Setting, Unshared
from outpace.benchmarks.running import geometry, stragglers
from outpace.benchmarks.running.evaluate import evaluate
from outpace.benchmarks.running.pace import PacedProblem, rehearsal
from outpace.benchmarks.running.plan import DEFAULT_EPOCHS, Plan
from outpace.benchmarks.running.progress_bar import Reporter
from outpace.benchmarks.running.stragglers import Delays
from outpace.benchmarks.running.watch import Watch
from outpace.benchmarks.trace import archive, checkpoint, schema, snapshots
from outpace.benchmarks.trace.checkpoint import GOES_ON, Checkpoint, Counters
from outpace.benchmarks.trace.parts import Part, models_path, part_path
from outpace.benchmarks.trace.recorder import Trace
from outpace.benchmarks.trace.run import Run
from outpace.benchmarks.trace.snapshots import SLOT_S, Snapshots
from outpace.comm import agreement, arrays, clock, prox
from outpace.comm.budget import AgreedSteps, Budget, SharedTickets, Stop
from outpace.comm.errors import UserError
from outpace.comm.meter import MeteredComm
from outpace.comm.state import Captured

STATUS: Final = {
    Stop.NO: "complete",
    Stop.DONE: "complete",
    Stop.TIME: "complete",
    Stop.SIGNAL: "partial",
    Stop.DIVERGED: "diverged",
}


RunFunction = Callable[[Any, Any, Any, Any, Any], Any]


class _Execution:
    """One run on this rank, from its open part file to the merged trace; from a checkpoint on where there is one."""

    def __init__(
        self,
        comm: MeteredComm,
        run: RunFunction,
        plan: Plan,
        problem: Problem | Unshared,
        setting: Setting,
        derived: dict[str, Any],
        generation: int,
        resumed: Checkpoint | None,
    ) -> None:
        self.comm, self.run, self.plan, self.problem, self.derived = comm, run, plan, problem, derived
        self.generation, self.resumed = generation, resumed
        self.slices = plan.layout.held(problem.dim)  # of the model, by the ranks that hold them
        self.held = self.slices.get(comm.rank)  # None on a rank that has no part of the model
        self.shares = [] if isinstance(problem, Unshared) else [problem]  # for the evaluation
        self.setting = setting
        self.diverged_step = -1
        self.start_s = 0.0
        self.opened = False

    def set_up(self) -> None:
        """Everything before the timed part; collective. Raises UserError on every rank."""
        comm, plan, resumed = self.comm, self.plan, self.resumed
        config, launch = plan.config, plan.launch
        epochs = launch.epochs or (None if launch.time_budget else DEFAULT_EPOCHS)
        steps = None if epochs is None else max(1, round(epochs * config.steps_per_epoch(self.problem.n_total, plan.n)))
        # The store of snapshots and the part file are opened together, so that either all ranks have both or the run
        # ends before its timed part.
        dtype = np.dtype(config.dtype)
        largest = max(part.stop - part.start for part in self.slices.values())
        capacity = snapshots.capacity(launch.evaluations, largest, dtype)
        if capacity < 2 * launch.evaluations and comm.rank == 0:
            print(
                f"{plan.name}: --evaluations cut to {capacity // 2}: snapshots are limited to 512 MB a rank",
                file=sys.stderr,
            )
        self.capacity = capacity if self.held else 0
        self.attributes = self._attributes(self.setting)
        self.part, self.snapshots = agreement.together(comm, self._open)
        self.trace = Trace(comm, self.snapshots)
        self.offset = clock.offset(comm)
        self.part.append_offset(self.offset)
        self.budget: Budget
        every = launch.checkpoint_every
        if plan.shared:
            total = None if steps is None else steps * plan.n
            self.budget = SharedTickets(comm, total, launch.time_budget, self._start, self.trace, plan.layout, every)
        else:
            self.budget = AgreedSteps(comm, steps, launch.time_budget, self._start, plan.period, plan.hops, every)
        self.paced = agreement.together(comm, self._pace)
        if resumed:
            self.budget.saved, self.budget.count = resumed.kept, resumed.counters.rounds
            self.trace.steps, self.paced.calls = resumed.counters.steps, resumed.counters.gradients
            if comm.rank == self.budget.desk:
                at = f"round {self.budget.count}, {resumed.counters.elapsed_s:.2f} s"
                print(f"{plan.name}: goes on from the checkpoint at {at}", file=sys.stderr, flush=True)
        self.reporter = Reporter(plan.name, self.budget) if comm.rank == self.budget.desk else None
        self.watch = Watch(comm, self.budget, self._flush, self.reporter.show if self.reporter else lambda: None)

    def execute(self) -> int:
        comm, trace = self.comm, self.trace
        x, reason = self._train()
        if self.reporter:
            self.reporter.close()
        end_s = self._end_s()
        if self.plan.shared and self.held:
            self.snapshots.offer(x, trace.steps, end_s)
        end = clock.offset(MPI.Intracomm(comm))  # past the meter: /traffic is of the timed part only
        agreement.together(comm, lambda: self._close(end))

        stored = comm.allgather(self.snapshots.tags())
        tags = archive.common([stored[rank] for rank in self.slices])
        tags = tags[tags * SLOT_S < end_s] if self.plan.shared else tags[tags < trace.steps]
        shapes: list[dict[str, float]] = []

        def measure(x_bar: np.ndarray) -> None:
            if self.plan.launch.geometry:
                among = comm, self.plan.n, self.shares, self.plan.config.batch_size, self.plan.config.seed
                shapes.append(geometry.measure(*among, len(shapes), x_bar))

        psi = prox.parse(self.plan.config.prox)
        values, x_mean = evaluate(comm, self.plan.layout, self.shares, *self._points(x, tags), measure, psi)
        shape = {name: np.array([row[name] for row in shapes]) for name in shapes[0]} if shapes else None
        attributes = {"status": STATUS[reason]}
        if hasattr(self.problem, "answer") and psi == prox.NOTHING:
            attributes |= {"answer": json.dumps(known)} if (known := self.problem.answer(comm, x_mean)) else {}
        agreement.on_root(comm, lambda: self._merge(attributes, tags, values, x_mean, shape, reason is Stop.SIGNAL))
        self.part.close()  # only now: an open part tells `show --recover` that the run lives
        return self._report(reason)

    def _train(self) -> tuple[Any, Stop]:
        """Run the program to the end of its budget, checkpoints between; its result, and why it ended."""
        while True:
            try:
                x = self.run(self.comm, self.paced, self.plan.config, self.budget, self.trace)
            except Exception:
                self.watch.last_flush()
                raise
            if self.diverged_step < 0 and self.held and not bool(self.problem.xp.isfinite(x).all()):
                self._diverged(self.trace.steps)
            reason = Stop(self.comm.allreduce(self.budget.reason, MPI.MAX))
            if reason in (Stop.CHECKPOINT, Stop.SIGNAL):
                self._checkpoint()
            if reason is not Stop.CHECKPOINT:
                return x, reason
            self.budget.go_on()

    def _end_s(self) -> float:
        """The end of the last step of any rank, in seconds since the start."""
        last_s = self.trace.last_s + self.offset.seconds - self.start_s
        return float(self.comm.allreduce(last_s, MPI.MAX))

    def _checkpoint(self) -> None:
        """Write a checkpoint of all ranks, then forget the one before; collective, with no message under way."""
        comm, target = self.comm, self.plan.target
        with self.trace.phase("checkpoint", background=True):
            kept, elapsed_s = self.budget.save(), self._end_s()
            agreement.together(comm, lambda: self._write_checkpoint(kept, elapsed_s))
            self.generation += 1
            checkpoint.forget(target, comm.rank, before=self.generation)

    def _write_checkpoint(self, kept: dict[str, Captured], elapsed_s: float) -> None:
        comm, trace, snapshots = self.comm, self.trace, self.snapshots
        try:
            self.watch.flush()
            self.part.sync()
            self.snapshots.sync()
            counters = Counters(
                config_id=self.plan.config_id,
                rounds=self.budget.count,
                steps=trace.steps,
                gradients=self.paced.calls,
                elapsed_s=elapsed_s,
                part_nbytes=self.part.nbytes,
                snapshots_due=snapshots.due,
                snapshots_stride=snapshots.stride,
                messages=comm.meter.messages.tolist(),
                nbytes=comm.meter.nbytes.tolist(),
            )
            checkpoint.write(self.plan.target, comm.rank, self.generation + 1, Checkpoint(counters, kept))
        except OSError as error:
            raise Unwritten(f"rank {comm.rank}: cannot write its checkpoint: {error.strerror}") from None

    def _pace(self) -> PacedProblem | Unshared:
        if isinstance(self.problem, Unshared):
            return self.problem
        config, launch = self.plan.config, self.plan.launch
        delays = Delays(stragglers.parse(launch.stragglers), config.seed, self.comm.rank)
        return PacedProblem(
            self.problem, self.comm, self.trace, delays, launch.compute_time, config.batch_size, self._diverged
        )

    def _points(self, x: Any, tags: np.ndarray) -> tuple[list[slice], int, Iterator[list[np.ndarray]]]:
        """What `evaluate` needs of the models: the slices held here, their size, and the values at every point."""
        dim = self.problem.dim
        if not self.held:
            return [], dim, ([] for _ in range(len(tags) + 2))
        x_start, x_end = (arrays.to_host(at).astype(np.float64) for at in (self.problem.x0()[self.held], x))
        return [self.held], dim, ([at] for at in (x_start, *(self.snapshots[tag] for tag in tags), x_end))

    def _start(self) -> float:
        """Begin the timed part together: the start on this rank's clock, earlier by what a checkpoint has behind it."""
        before = self.resumed.counters if self.resumed else None
        elapsed = before.elapsed_s if before else 0.0
        self.comm.Barrier()
        self.start_s = self.comm.bcast(clock.now(self.comm)) - elapsed  # on rank 0's clock
        local: float = self.start_s - self.offset.seconds
        self.part.append("json", json.dumps({"started_s": local}).encode())
        self.trace.start(local, elapsed)
        self.comm.meter.reset()
        if before:
            self.comm.meter.messages[:], self.comm.meter.nbytes[:] = before.messages, before.nbytes
        return local

    def _open(self) -> tuple[Part, Snapshots]:
        target, rank = self.plan.target, self.comm.rank
        header = {
            "rank": rank,
            "ranks": self.comm.size,
            "pid": os.getpid(),
            "host": platform.node(),
            "per_step": not self.plan.shared,
            "capacity": self.capacity,
            "labels": getattr(self.problem, "label_counts", np.empty(0)).tolist(),
            "attributes": self.attributes,
        }
        path, dtype = models_path(target, rank), np.dtype(self.plan.config.dtype)
        store = self.capacity, self.held.stop - self.held.start if self.held else 0, dtype, not self.plan.shared, path
        try:
            if self.resumed:
                before = self.resumed.counters
                part = Part(target, rank, header, after=before.part_nbytes)
                return part, Snapshots(*store, before.snapshots_due, before.snapshots_stride)
            if self.plan.launch.overwrite:
                self._remove_parts()
            part = Part(target, rank, header)
            self.opened = True  # and not before: until then whatever has these names belongs to another run
            return part, Snapshots(*store)
        except OSError as error:
            raise UserError(f"--out: rank {rank} cannot write beside {target}: {error.strerror}") from None

    def discard(self) -> None:
        """Remove the files that this rank has opened, unless there is something in them."""
        if self.opened and not self.start_s:
            self._remove_parts()

    def _remove_parts(self) -> None:
        target, rank = self.plan.target, self.comm.rank
        for path in (part_path(target, rank), models_path(target, rank)):
            path.unlink(missing_ok=True)
        checkpoint.forget(target, rank)

    def _flush(self) -> bool:
        return self.part.append_rows(self.trace, self.comm.meter.messages, self.comm.meter.nbytes)

    def _diverged(self, step: int) -> None:
        self.diverged_step = step
        self.budget.stop(Stop.DIVERGED)

    def _close(self, end: clock.Offset) -> None:
        try:
            self.watch.last_flush()
            self.part.append_offset(end)
            self.part.sync()
        except OSError as error:
            raise Unwritten(f"rank {self.comm.rank}: cannot write its part of the trace: {error.strerror}") from None

    def _merge(self, *results: Any) -> None:
        try:
            archive.merge(self.plan.target, *results)
        except OSError as error:
            raise Unwritten(f"rank 0: cannot write {self.plan.target}: {error.strerror or error}") from None

    def _report(self, reason: Stop) -> int:
        """Print the one result line, or what went wrong, on rank 0; the exit code on every rank."""
        failures = [(step, rank) for rank, step in enumerate(self.comm.allgather(self.diverged_step)) if step >= 0]
        code = 1 if failures else 0
        if reason is Stop.SIGNAL:
            signalled = max(self.comm.allgather(self.watch.signal))
            code = GOES_ON if signalled == signal.SIGUSR1 else 128 + signalled
        if self.comm.rank == 0:
            name, target = self.plan.name, self.plan.target
            run = Run(target)
            if failures:
                step, rank = min(failures)
                step_size = self.derived.get("step_size", self.plan.config.step_size)
                chosen = "" if step_size is None else f" (--step-size {step_size:g})"
                print(
                    f"{name}: rank {rank}, step {step}: gradient or model is not finite{chosen}; trace kept in "
                    f"{target} with status diverged",
                    file=sys.stderr,
                    flush=True,
                )
            else:
                later = "; the same command goes on from its checkpoint" if reason is Stop.SIGNAL else ""
                print(
                    f"{name}: {_result(run)}; {STATUS[reason]}, {run.attrs['claim_class']}, wrote {target}{later}",
                    flush=True,
                )
        return code

    def _attributes(self, setting: Setting) -> dict[str, Any]:
        """Root attributes of the trace that are known before the run; collective."""
        plan, launch, comm = self.plan, self.plan.launch, self.comm
        resolved = dataclasses.asdict(plan.config) | dataclasses.asdict(launch) | plan.texts
        resolved |= {"backend": setting.xp.__name__, "ranks": comm.size, "out": str(plan.target)}
        arguments = shlex.join(sys.argv[1:])
        return {
            "status": "partial",
            "algorithm": plan.name,
            "command": f"mpiexec -n {comm.size} python -m mpi4py -m outpace.algorithms.{plan.name} {arguments}".strip(),
            "config": json.dumps(resolved),
            "config_id": plan.config_id,
            **plan.texts,
            "backend": setting.xp.__name__,
            "dtype": plan.config.dtype,
            "n_workers": plan.n,
            "dim": self.problem.dim,
            "n_total": self.problem.n_total,
            "n_samples": comm.allgather(self.problem.n_samples)[: plan.n],
            "seed": plan.config.seed,
            "claim_class": provenance.claim_class(comm, emulated=launch.compute_time > 0),
            **self._certificate(),
            "started_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **provenance.describe(comm, gpu=setting.xp is not np),
            **({"constants": json.dumps(self.derived)} if self.derived else {}),
        }

    def _certificate(self) -> dict[str, Any]:
        """Whether a rank that computes serves messages meanwhile, where the program relies on it; collective."""
        plan, comm, problem = self.plan, self.comm, self.problem
        if not plan.shared or comm.size == 1:
            return {"progress": "none", "progress_wait_s": []}
        loads = async_progress.loads(comm)
        if not isinstance(problem, Unshared):
            loads["gradient"] = rehearsal(problem, plan.config.batch_size, comm, plan.launch.compute_time)
        ordered = [loads.get(name) for name in schema.PROGRESS_LOADS]
        waits = async_progress.waits(comm, ordered, target=plan.n - 1, prober=plan.n % comm.size)
        return {"progress": async_progress.verdict(waits[0]), "progress_wait_s": waits}


class Unwritten(UserError):
    """A disk that failed after the timed part; the parts are kept."""


def _result(run: Run) -> str:
    """The result of a run in words. No rate without a valid result: the loss must be finite and have fallen."""
    loss = run.column("evaluations", "loss")
    text = f"loss {loss[0]:.4g} -> {loss[-1]:.4g} in {run.attrs['wall_s']:.2f} s"
    if run.has("evaluations", "accuracy"):
        text += f", accuracy {run.column('evaluations', 'accuracy')[-1]:.3f}"
    text += "".join(f", {name} {value:.2g}" for name, value in json.loads(run.attrs.get("answer", "{}")).items())
    if not run.improved():
        return f"{text}; the loss did not fall, so no rate is given"
    return f"{text}, {run.samples_per_s():.0f} samples/s"
