"""What a trace says of its run that is known before it begins."""

import dataclasses
import datetime
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from outpace.benchmarks.machine import async_progress, load, provenance
from outpace.benchmarks.problems import Problem, Setting, Unshared
from outpace.benchmarks.running.pace import rehearsal
from outpace.benchmarks.running.plan import Plan
from outpace.benchmarks.trace import schema
from outpace.comm import agreement, arrays, vectors
from outpace.comm.meter import MeteredComm


def beforehand(
    comm: MeteredComm,
    plan: Plan,
    problem: Problem | Unshared,
    setting: Setting,
    derived: dict[str, Any],
    look: load.Look,
) -> dict[str, Any]:
    """Root attributes of the trace; collective. `derived` are the constants that the Config took from the problem, and
    `look` ends here, after all that takes long."""
    n_samples = comm.allgather(problem.n_samples)[: plan.n]
    gpus = provenance.gpus(comm, plan.n, setting.xp is not np)
    return {
        **of_plan(plan, problem, n_samples, setting, derived),
        "command": provenance.command(comm.size),
        **_certificate(comm, plan, problem),
        "started_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **provenance.describe(comm, gpu=setting.xp is not np),
        **(_of_gpus(comm, plan, gpus) if gpus else _of_cpus(comm, plan)),
        **_timings(comm, plan, gpus, look),
    }


def of_plan(
    plan: Plan, problem: Problem | Unshared, n_samples: Sequence[int], setting: Setting, derived: dict[str, Any]
) -> dict[str, Any]:
    """Those that no clock and no machine has a part in."""
    constants = derived | ({} if problem.zeta2 is None else {"zeta2": problem.zeta2})
    resolved = dataclasses.asdict(plan.config) | dataclasses.asdict(plan.launch) | plan.texts
    resolved |= {"backend": setting.xp.__name__, "ranks": plan.layout.ranks, "out": str(plan.target)}
    resolved |= {"scratch": plan.launch.scratch and str(plan.launch.scratch)}
    return {
        "status": "partial",
        "algorithm": plan.name,
        "title": plan.config.title or plan.name,
        "config": json.dumps(resolved),
        "config_id": plan.config_id,
        **plan.texts,
        "backend": setting.xp.__name__,
        "dtype": plan.config.dtype,
        "n_workers": plan.n,
        "dim": problem.dim,
        "n_total": problem.n_total,
        "n_samples": list(n_samples),
        "seed": plan.config.seed,
        **({"inputs": json.dumps(dict(plan.inputs))} if plan.inputs else {}),
        **({"constants": json.dumps(constants)} if constants else {}),
        **({"parameters": json.dumps(problem.parameters)} if problem.parameters else {}),
    }


def _of_gpus(comm: MeteredComm, plan: Plan, gpus: Sequence[str]) -> dict[str, Any]:
    return {"gpus": gpus, "device_messages": arrays.device_messages(comm), "fabric": plan.launch.fabric}


def _of_cpus(comm: MeteredComm, plan: Plan) -> dict[str, Any]:
    reasons = enumerate(comm.allgather(agreement.together(comm, lambda: vectors.uncompiled(plan.config.dtype))))
    why = next((f"NumPy: on rank {rank}, {reason}" for rank, reason in reasons if reason), "compiled")
    return {"vector_passes": why}


def _timings(comm: MeteredComm, plan: Plan, gpus: Sequence[str], look: load.Look) -> dict[str, Any]:
    """What the timings may be called, and how busy others keep the cores; with a warning where these are not what the
    user will take them for; collective."""
    slept, linked = plan.launch.compute_time > 0, plan.texts["links"] != "none"
    claim_class = provenance.claim_class(comm, slept, gpus)
    busy, crowded = look.end()
    warning = None
    if claim_class == "emulated" and not slept:
        what = "cores" if len(set(gpus)) == len(gpus) else "GPUs"
        warning = (
            f"{comm.size} ranks share fewer {what}, and times tell how these were shared; "
            "start fewer ranks, or add --compute-time SECONDS"
        )
    elif claim_class == "measured" and crowded:
        warning = f"other processes keep {busy:.1f} cores busy that this run needs, and its times tell of both"
    if warning and comm.rank == 0:
        print(f"{plan.name}: warning: {warning}", file=sys.stderr, flush=True)
    return {"claim_class": "emulated" if linked else claim_class, "load": busy}


def _certificate(comm: MeteredComm, plan: Plan, problem: Problem | Unshared) -> dict[str, Any]:
    """Whether a rank that computes serves messages meanwhile, where the program relies on it; collective."""
    if not plan.shared or comm.size == 1:
        return {"progress": "none", "progress_wait_s": []}
    loads = async_progress.loads(comm)
    if not isinstance(problem, Unshared):
        loads["gradient"] = rehearsal(problem, plan.config.batch_size, comm, plan.launch.compute_time)
    ordered = [loads.get(name) for name in schema.PROGRESS_LOADS]
    waits = async_progress.waits(comm, ordered, target=plan.n - 1, prober=plan.n % comm.size)
    return {"progress": async_progress.verdict(waits[0]), "progress_wait_s": waits}
