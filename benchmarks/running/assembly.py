"""What a program runs on, put together: the budget, the trace and the paced problem, and the start of the timed part.

A run, `outpace micro` and the conformance checks all make them here.
"""

from collections.abc import Callable
from typing import Any

from outpace.benchmarks.problems import Problem, Unshared
from outpace.benchmarks.running import stragglers
from outpace.benchmarks.running.pace import PacedProblem
from outpace.benchmarks.running.plan import Plan
from outpace.benchmarks.running.stragglers import Delays
from outpace.benchmarks.trace.checkpoint import Checkpoint
from outpace.benchmarks.trace.recorder import Trace
from outpace.benchmarks.trace.snapshots import SLOT_S, Snapshots
from outpace.comm import agreement, clock
from outpace.comm.budget import AgreedSteps, Budget, ServedGradients, ServedRounds, Stop
from outpace.comm.meter import MeteredComm
from outpace.comm.tickets import SharedCount, SharedTickets

RunFunction = Callable[[Any, Any, Any, Any, Any], Any]


class Assembly:
    """`budget`, `trace` and `problem` (paced, where this rank has a share of it) of one run on this rank.

    `steps` are those of a worker, on average where the workers share them; None for no limit. The plan has the limit of
    time, the checkpoints and the pacing. From a checkpoint, `resumed`, everything goes on as it stood. `offset_s` is
    rank 0's clock minus this rank's. `begun` is called when the timed part starts, with that moment on this rank's
    clock, earlier by what lies before the checkpoint.
    """

    def __init__(
        self,
        comm: MeteredComm,
        plan: Plan,
        problem: Problem | Unshared,
        snapshots: Snapshots,
        steps: int | None,
        resumed: Checkpoint | None = None,
        offset_s: float = 0.0,
        begun: Callable[[float], None] = lambda started_s: None,
        recorder: type[Trace] = Trace,
    ) -> None:
        """Collective over `comm`. Raises UserError on every rank where the trace of the stragglers cannot be read."""
        self.comm, self.plan = comm, plan
        self.diverged_step = -1  # of this rank's first gradient that was not finite
        self._before, self._offset_s, self._begun = resumed and resumed.counters, offset_s, begun
        self.trace = recorder(comm, snapshots)
        seconds, every = plan.launch.time_budget, plan.launch.checkpoint_every
        self.budget: Budget
        if not plan.shared:
            self.budget = AgreedSteps(comm, steps, seconds, self._start, plan.period, plan.hops, every)
        elif plan.config.rounds:
            self.budget = ServedRounds(comm, steps, seconds, self._start, plan.layout.desk, every)
        elif plan.config.granted:
            total = None if steps is None else steps * plan.n
            self.budget = ServedGradients(comm, total, seconds, self._start, plan.layout, every)
        elif steps is None:
            self.budget = SharedCount(comm, seconds, self._start, plan.layout, every)
        else:
            total = steps * plan.n
            self.budget = SharedTickets(comm, total, seconds, self._start, self.trace, plan.layout, every)
        self.problem = agreement.together(comm, lambda: self._paced(problem))
        if resumed:
            self.budget.saved, self.budget.count = resumed.kept, resumed.counters.rounds
            self.trace.steps, self.problem.calls = resumed.counters.steps, resumed.counters.gradients
        elif length := plan.length(problem.n_total) or self._length(steps):
            snapshots.expect(length)
        self.budget.keep(**{f"problem: {name}": array for name, array in problem.state().items()})

    def _length(self, steps: int | None) -> float | None:
        """How long the run will be in the unit of the snapshots' tags, if an asynchronous program makes its steps at
        the pace that its gradients had beforehand; collective. None where the plan knows, or nobody."""
        if not self.plan.shared or steps is None or self.plan.launch.time_budget:
            return None
        rate = self.comm.allreduce(0.0 if isinstance(self.problem, Unshared) else 1 / self.problem.base_s)
        return float(steps * self.plan.n / rate / SLOT_S)

    def run(self, program: RunFunction) -> Any:
        """The program's loop until its budget ends or has it pause for a checkpoint; what it returns."""
        x = program(self.comm, self.problem, self.plan.config, self.budget, self.trace)
        self.budget.settle()
        return x

    def diverged(self, step: int) -> None:
        """A gradient or a model of this rank is not finite: its run ends."""
        self.diverged_step = step
        self.budget.stop(Stop.DIVERGED)

    def _paced(self, problem: Problem | Unshared) -> PacedProblem | Unshared:
        if isinstance(problem, Unshared):
            return problem
        config, launch = self.plan.config, self.plan.launch
        delays = Delays(stragglers.parse(launch.stragglers), config.seed, self.comm.rank)
        return PacedProblem(
            problem, self.comm, self.trace, delays, launch.compute_time, config.batch_size, self.diverged
        )

    def _start(self) -> float:
        """All ranks begin the timed part together, at one moment of rank 0's clock."""
        comm, before = self.comm, self._before
        elapsed = before.elapsed_s if before else 0.0
        comm.Barrier()
        started_s: float = comm.bcast(clock.now(comm)) - elapsed - self._offset_s
        self._begun(started_s)
        self.trace.start(started_s, elapsed)
        comm.meter.reset()
        if before:
            comm.meter.messages[:], comm.meter.nbytes[:] = before.messages, before.nbytes
        return started_s
