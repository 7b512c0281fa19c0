"""One run on this rank, from its open part file to the merged trace."""

import errno
import sys
from functools import partial
from typing import Any

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.machine import links, load, namespaces, network
from outpace.benchmarks.machine.link_changes import Changes
from outpace.benchmarks.problems import Problem, Setting, Unshared
from outpace.benchmarks.running import attributes, geometry
from outpace.benchmarks.running.assembly import Assembly, RunFunction
from outpace.benchmarks.running.finish import Course, finish
from outpace.benchmarks.running.plan import Plan
from outpace.benchmarks.running.progress_bar import Reporter
from outpace.benchmarks.running.rehearsal import rehearse
from outpace.benchmarks.running.report import STATUS, report
from outpace.benchmarks.running.storage import Storage, Unwritten, opened
from outpace.benchmarks.running.watch import Watch
from outpace.benchmarks.trace import checkpoint
from outpace.benchmarks.trace.checkpoint import Checkpoint, Counters
from outpace.benchmarks.trace.snapshots import SLOT_S
from outpace.comm import agreement, arrays, clock, prox
from outpace.comm.budget import Stop
from outpace.comm.meter import MeteredComm
from outpace.comm.state import Captured


def execute(
    comm: MeteredComm,
    run: RunFunction,
    plan: Plan,
    problem: Problem | Unshared,
    setting: Setting,
    derived: dict[str, Any],
    generation: int,
    resumed: Checkpoint | None,
    look: load.Look,
    why: str = "",
) -> int:
    """The life of a run: set-up, timed part, evaluation, merge, report; its exit code. Collective over `comm`.

    It goes on from the checkpoint `resumed`, of that generation, where there is one. `why` says why it computes where
    it does, if nobody had asked for that. Raises UserError on every rank.
    """
    if setting.xp is not np:
        rehearse(comm, run, plan, problem)
    beforehand = attributes.beforehand(comm, plan, problem, setting, derived, look)
    beforehand |= {"backend_choice": why} if why else {}
    with opened(comm, plan, problem, beforehand, resumed) as storage:
        execution = Execution(comm, run, plan, problem, storage, generation, resumed)
        x, reason = execution.train()
        course = execution.close(x)
    cfg, measure = plan.config, None
    if plan.launch.geometry:
        measure = partial(geometry.measure, comm, plan.n, course.shares, cfg.batch_size, cfg.seed)
    status = {"status": STATUS[reason]}
    keep, overwrite = reason is Stop.SIGNAL, plan.launch.overwrite or plan.launch.anew
    with namespaces.lifted(comm.rank, comm.size):
        written = finish(course, plan.target, status, prox.parse(cfg.prox), measure, keep, overwrite)
    storage.close(keep)
    step_size = derived.get("step_size", cfg.step_size)
    return report(comm, plan, written, step_size, reason, execution.assembly.diverged_step, execution.watch.signal)


class Execution:
    """The timed part of one run on this rank: set up with the object, run by `train`, ended by `close`."""

    def __init__(
        self,
        comm: MeteredComm,
        run: RunFunction,
        plan: Plan,
        problem: Problem | Unshared,
        storage: Storage,
        generation: int,
        resumed: Checkpoint | None,
    ) -> None:
        """Collective over `comm`. Raises UserError on every rank."""
        self.comm, self.run, self.plan, self.problem, self.storage = comm, run, plan, problem, storage
        self.generation = generation  # of the last checkpoint
        self.changes: Changes | None = None  # of the links, where they change
        offset = clock.offset(comm)
        storage.part.append_offset(offset)
        storage.part.append_network(network.measure(comm, plan.config.seed))
        steps = plan.steps(problem.n_total)
        self.assembly = Assembly(comm, plan, problem, storage.snapshots, steps, resumed, offset.seconds, self._begin)
        self.budget, self.trace = self.assembly.budget, self.assembly.trace
        at_desk = comm.rank == self.budget.desk
        if resumed and at_desk:
            at = f"round {self.budget.count}, {resumed.counters.elapsed_s:.2f} s"
            print(f"{plan.name}: goes on from the checkpoint at {at}", file=sys.stderr, flush=True)
        self.reporter = Reporter(plan.name, self.budget) if at_desk else None
        self.watch = Watch(comm, self.budget, self._flush, self.reporter.show if self.reporter else lambda: None)

    def train(self) -> tuple[Any, Stop]:
        """Run the program to the end of its budget, checkpoints between; its result, and why it ended."""
        while True:
            try:
                x = self.assembly.run(self.run)
            except Exception:
                self.watch.last_flush()
                raise
            finite = self.storage.held is None or bool(self.problem.xp.isfinite(x).all())
            if self.assembly.diverged_step < 0 and not finite:
                self.assembly.diverged(self.trace.steps)
            reason = Stop(self.comm.allreduce(self.budget.reason, MPI.MAX))
            if reason in (Stop.CHECKPOINT, Stop.SIGNAL):
                self._checkpoint()
            if reason is not Stop.CHECKPOINT:
                return x, reason
            self.budget.go_on()

    def close(self, x: Any) -> Course:
        """The last rows are on the disk; what there is to evaluate, with the result `x`. Collective. Raises Unwritten
        on every rank."""
        comm, plan, held, snapshots = self.comm, self.plan, self.storage.held, self.storage.snapshots
        if self.reporter:
            self.reporter.close()
        end_s = self._end_s()
        if plan.shared and held:
            snapshots.offer(x, self.trace.steps, end_s)
        end = clock.offset(MPI.Intracomm(comm))  # past the meter: /traffic is of the timed part only
        agreement.together(comm, lambda: self._last_rows(end))
        x_start, *x_end = (arrays.to_host(at).astype(np.float64) for at in (self.problem.x0(), *([x] if held else [])))
        return Course(
            comm,
            plan.layout,
            [] if isinstance(self.problem, Unshared) else [self.problem],
            x_start,
            [held] if held else [],
            [snapshots] if held else [],
            end_s / SLOT_S if plan.shared else self.trace.steps,
            x_end,
        )

    def _begin(self, started_s: float) -> None:
        """The timed part began at `started_s`, on this rank's clock; links that change start to do so."""
        self.storage.begin(started_s)
        if self.comm.rank == 0 and isinstance(links.parse(self.plan.launch.links), links.Shared):
            self.changes = Changes(self.plan.config.seed, started_s)

    def _end_s(self) -> float:
        """The end of the last step of any rank, in seconds since the start."""
        return float(self.comm.allreduce(self.trace.last_s - self.trace.started_s, MPI.MAX))

    def _checkpoint(self) -> None:
        """Write a checkpoint of all ranks, then forget the one before; collective, with no message under way."""
        comm, target = self.comm, self.plan.target
        with self.trace.phase("checkpoint", background=True):
            kept, elapsed_s = self.budget.save(), self._end_s()
            agreement.together(comm, lambda: self._write_checkpoint(kept, elapsed_s))
            self.generation += 1
            checkpoint.forget(target, comm.rank, before=self.generation)

    def _write_checkpoint(self, kept: dict[str, Captured], elapsed_s: float) -> None:
        comm, part, snapshots = self.comm, self.storage.part, self.storage.snapshots
        try:
            self.watch.flush()
            part.sync()
            snapshots.sync()
            counters = Counters(
                config_id=self.plan.config_id,
                inputs=dict(self.plan.inputs),
                rounds=self.budget.count,
                steps=self.trace.steps,
                gradients=self.assembly.problem.calls,
                elapsed_s=elapsed_s,
                part_nbytes=part.nbytes,
                snapshots_due=snapshots.due,
                snapshots_stride=snapshots.stride,
                messages=comm.meter.messages.tolist(),
                nbytes=comm.meter.nbytes.tolist(),
            )
            checkpoint.write(self.plan.target, comm.rank, self.generation + 1, Checkpoint(counters, kept))
        except OSError as error:
            raise Unwritten(f"rank {comm.rank}: cannot write its checkpoint: {error.strerror}") from None

    def _flush(self) -> bool:
        if self.changes:
            self.storage.part.append_links(self._changed(self.changes))
        return self.storage.part.append_rows(self.trace, self.comm.meter.messages, self.comm.meter.nbytes)

    def _changed(self, changes: Changes) -> list[tuple[int, float, float]]:
        """The changes of links since the last flush, on this rank's clock. Raises OSError."""
        try:
            return [(rank, self.trace.started_s + t_s, bytes_per_s) for rank, t_s, bytes_per_s in changes.read()]
        except (OSError, RuntimeError):
            raise OSError(errno.EPIPE, "the process that changes the links has ended") from None

    def _last_rows(self, end: clock.Offset) -> None:
        try:
            self.watch.last_flush()
            if self.changes:
                self.changes.close()
            self.storage.part.append_offset(end)
            self.storage.part.sync()
        except OSError as error:
            raise Unwritten(f"rank {self.comm.rank}: cannot write its part of the trace: {error.strerror}") from None
