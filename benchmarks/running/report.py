"""What a run says at its end: one line, and its exit code."""

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mpi4py import MPI

from outpace.benchmarks.running.plan import Plan
from outpace.benchmarks.trace.checkpoint import GOES_ON
from outpace.comm.budget import Stop

if TYPE_CHECKING:
    from outpace.benchmarks.trace.run import Run

STATUS: Final = {
    Stop.NO: "complete",
    Stop.DONE: "complete",
    Stop.TIME: "complete",
    Stop.SIGNAL: "partial",
    Stop.DIVERGED: "diverged",
}


def report(
    comm: MPI.Intracomm,
    plan: Plan,
    written: Path | None,
    step_size: float | None,
    reason: Stop,
    diverged_step: int,
    signalled: int,
) -> int:
    """As `tell`, on every rank; collective. `diverged_step` is this rank's, `signalled` the last signal it took."""
    number = max(comm.allgather(signalled))
    return tell(plan, written, step_size, reason, comm.allgather(diverged_step), number)


def tell(
    plan: Plan,
    written: Path | None,
    step_size: float | None,
    reason: Stop,
    diverged_steps: Sequence[int],
    signalled: int = 0,
) -> int:
    """Print the one result line, or what went wrong, where the trace is; the exit code.

    `written` is where the trace is, which is not the plan's target where that name was taken meanwhile; None where this
    process has not written it. `diverged_steps` are those of all ranks, -1 where nothing diverged.
    """
    failures = [(step, rank) for rank, step in enumerate(diverged_steps) if step >= 0]
    code = 1 if failures else 0
    if reason is Stop.SIGNAL:
        code = GOES_ON if signalled == signal.SIGUSR1 else 128 + signalled
    if written:
        from outpace.benchmarks.trace.run import Run  # and h5py, which is slow and only rank 0 needs

        run = Run(written)
        taken = "" if written == plan.target else f", since meanwhile {plan.target} has become another's"
        if failures:
            step, rank = min(failures)
            chosen = "" if step_size is None else f" (--step-size {step_size:g})"
            print(
                f"{plan.name}: rank {rank}, step {step}: gradient or model is not finite{chosen}; trace kept in "
                f"{written} with status diverged{taken}",
                file=sys.stderr,
                flush=True,
            )
        else:
            later = "; the same command goes on from its checkpoint" if reason is Stop.SIGNAL else ""
            about = f"{STATUS[reason]}, {run.attrs['claim_class']}, wrote {written}{taken}{later}"
            print(f"{plan.name}: {_result(run)}; {about}", flush=True)
    return code


def _result(run: "Run") -> str:
    """The result of a run in words. No rate without a valid result: the loss must be finite and have fallen."""
    loss = run.column("evaluations", "loss")
    text = f"loss {loss[0]:.4g} -> {loss[-1]:.4g} in {run.attrs['wall_s']:.2f} s"
    if run.has("evaluations", "accuracy"):
        text += f", accuracy {run.column('evaluations', 'accuracy')[-1]:.3f}"
    text += "".join(f", {name} {value:.2g}" for name, value in json.loads(run.attrs.get("answer", "{}")).items())
    if not run.improved():
        return f"{text}; the loss did not fall, so no rate is given"
    return f"{text}, {run.samples_per_s():.0f} samples/s"
