"""One run in simulated time, from its flags to its trace."""

import dataclasses
import gc
import io
import json
import shlex
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from mpi4py import MPI

from outpace.benchmarks import problems
from outpace.benchmarks.machine import link_limits, provenance
from outpace.benchmarks.problems import Problem, Setting, Unshared
from outpace.benchmarks.problems.size import VECTORS
from outpace.benchmarks.running import attributes, file_hashes, geometry, target
from outpace.benchmarks.running.assembly import Assembly, RunFunction
from outpace.benchmarks.running.file_hashes import own_file
from outpace.benchmarks.running.finish import Course, finish
from outpace.benchmarks.running.plan import Launch, Plan, make_plan
from outpace.benchmarks.running.report import STATUS, tell
from outpace.benchmarks.simulating.spilled import Spilled
from outpace.benchmarks.trace import snapshots
from outpace.benchmarks.trace.archive import Parts
from outpace.benchmarks.trace.parts import Segment, traffic
from outpace.benchmarks.trace.snapshots import SLOT_S, Snapshots
from outpace.comm import machines, memory, prox
from outpace.comm.arrays import to_host
from outpace.comm.budget import Stop
from outpace.comm.errors import UserError
from outpace.comm.machines import Machine
from outpace.comm.network import Network
from outpace.comm.simulated import World

STARTED: Final = "1970-01-01T00:00:00+00:00"  # a simulated run has no date, so that its trace is the same on any day
# Bytes of a rank beside its vectors: four contexts with their stacks, and what is in their queues; and for each other
# rank, what it counts of it.
OF_RANK: Final = 2**18
OF_PAIR: Final = 16


@dataclass
class Ended:
    """What a rank has at the end of its run: its result, its snapshots, and the rows of its part."""

    assembly: Assembly
    x: Any
    snapshots: Snapshots
    part: Segment


def simulate(run: RunFunction, name: str, config: Any, launch: Launch, ranks: int, flags: Sequence[str]) -> int:
    """Run the program on so many simulated ranks and write its trace; the exit code. `flags` are those that config and
    launch come from. Raises UserError."""
    _check(launch, ranks)
    machine = machines.read(str(launch.simulate))
    hashes = file_hashes.of_run(config, dataclasses.asdict(config) | dataclasses.asdict(launch))
    plan = make_plan(name, config, launch, ranks, hashes)
    plan = dataclasses.replace(plan, launch=dataclasses.replace(launch, compute_time=_compute_time(plan, machine)))
    with ExitStack() as until:
        target.claim(plan, until)
        return Simulation(run, plan, machine, flags).to_its_end()


def _check(launch: Launch, ranks: int) -> None:
    """Refuse what only a real run has, and a number of ranks that is not the one asked for."""
    if launch.ranks not in (None, ranks):
        raise UserError(f"--ranks is {launch.ranks}, and {ranks} are to be simulated")
    for flag, given in (
        ("--checkpoint-every", launch.checkpoint_every is not None),
        ("--scratch", launch.scratch is not None),
        ("--backend cupy", launch.backend == "cupy"),
    ):
        if given:
            raise UserError(f"{flag} is of real runs; leave it out with --simulate")


def _compute_time(plan: Plan, machine: Machine) -> float:
    """Seconds of a gradient over a batch: those given, else the machine's."""
    if plan.launch.compute_time:
        return float(plan.launch.compute_time)
    for problem in (plan.texts["problem"], plan.launch.problem):
        if sample_s := machine.compute_s_per_sample.get(problem):
            return float(sample_s * plan.config.batch_size)
    raise UserError(
        f"--simulate: machine {machine.name} does not tell how long a gradient of {plan.launch.problem} takes; "
        "add --compute-time SECONDS"
    )


def _unnamed(folder: Path) -> io.FileIO:
    """A file in the folder that is gone when it is closed, or this process ends. Raises UserError."""
    try:
        return tempfile.TemporaryFile(buffering=0, dir=folder)
    except OSError as error:
        raise UserError(f"--out: {folder}: {error.strerror}") from None


class Simulation:
    """A run of n workers, all in this process."""

    def __init__(self, run: RunFunction, plan: Plan, machine: Machine, flags: Sequence[str]) -> None:
        """Raises UserError, for what does not fit into memory too."""
        config, launch = plan.config, plan.launch
        self.run, self.plan, self.machine, self.flags = run, plan, machine, flags
        self.setting = Setting(
            MPI.COMM_SELF, range(plan.n), plan.n, launch.split, config.seed, config.dtype, np, config.batch_size
        )
        self.shares: list[Problem] = problems.build(launch.problem, self.setting)
        if launch.geometry:
            geometry.check(self.shares, config.batch_size)
        self.dim = self.shares[0].dim
        self.held = plan.layout.held(self.dim)
        plan.layout.check(self.dim)
        self.derived = config.derive(self.shares[0])
        dtype = np.dtype(config.dtype)
        wanted = snapshots.wanted(launch.evaluations, plan.length(self.shares[0].n_total))
        self.capacity = min(wanted, snapshots.anywhere(len(self.held)) // (self.dim * dtype.itemsize))
        ranks = plan.layout.ranks
        vectors = dtype.itemsize * self.dim * VECTORS * ranks
        memory.require(vectors + ranks * (OF_RANK + OF_PAIR * ranks), f"--simulate with {ranks} ranks")
        self.wire_scale = launch.wire_bytes / (dtype.itemsize * self.dim) if launch.wire_bytes else 1.0

    def to_its_end(self) -> int:
        """Run it, evaluate it, write its trace and say so; the exit code. Raises Deadlock and other UserErrors."""
        plan, launch, config = self.plan, self.plan.launch, self.plan.config
        limits = link_limits.on(self.machine, launch.links, plan.layout.ranks, config.seed)
        network = partial(Network, machine=self.machine, n=plan.layout.ranks, links=limits, seed=config.seed)
        with _unnamed(plan.target.parent) as file:
            return self._evaluated(World(plan.layout.ranks, network).run(self._rank, file))

    def _evaluated(self, ended: list[Ended]) -> int:
        plan, launch, config = self.plan, self.plan.launch, self.plan.config
        course, reason = self._course(ended), Stop(max(each.assembly.budget.reason for each in ended))
        diverged = [each.assembly.diverged_step for each in ended]
        parts = Parts([[each.part] for each in ended], {})
        ended.clear()
        gc.collect()  # the ranks, which hold one another: the trace will take their place
        measure = None
        if launch.geometry:
            measure = partial(geometry.measure, MPI.COMM_SELF, plan.n, self.shares, config.batch_size, config.seed)
        written = finish(
            course,
            plan.target,
            {"status": STATUS[reason]},
            prox.parse(config.prox),
            measure,
            overwrite=launch.overwrite or launch.anew,
            parts=parts,
        )
        step_size = self.derived.get("step_size", config.step_size)
        return tell(plan, written, step_size, reason, diverged)

    def _rank(self, comm: Any, file: io.FileIO) -> Ended:
        """The whole of one rank."""
        plan, rank = self.plan, comm.rank
        held = self.held.get(rank)
        size, dtype = (held.stop - held.start if held else 0), np.dtype(plan.config.dtype)
        capacity = self.capacity if held else 0
        rows = Spilled(file, rank * capacity * self.dim * dtype.itemsize, size, dtype)
        store = Snapshots(capacity, size, dtype, per_step=not plan.shared, models=rows)
        problem = self.shares[rank] if rank < plan.n else Unshared(MPI.COMM_SELF, self.shares)
        assembly = Assembly(comm, plan, problem, store, plan.steps(problem.n_total))
        assembly.comm = comm.scaled(self.wire_scale)  # tickets and agreements stay as short as they are
        x = assembly.run(self.run)
        if held and assembly.diverged_step < 0 and not np.isfinite(x).all():
            assembly.diverged(assembly.trace.steps)
        return Ended(assembly, x, store, self._part(comm, problem, assembly))

    def _part(self, comm: Any, problem: Problem | Unshared, assembly: Assembly) -> Segment:
        """What a rank's part file would hold."""
        counts = problem.label_counts
        part = Segment(
            {
                "rank": comm.rank,
                "ranks": comm.size,
                "started_s": assembly.trace.started_s,
                "per_step": not self.plan.shared,
                "averages_workers": self.plan.config.averages_workers,
                "labels": [] if counts is None else counts.tolist(),
                **({"attributes": self._attributes()} if comm.rank == 0 else {}),
            }
        )
        for table, rows in assembly.trace.drain().items():
            part.blocks[table].append(rows)
        part.blocks["traffic"].append(traffic(comm.rank, comm.meter.messages, comm.meter.nbytes, comm.now()))
        return part

    def _course(self, ended: list[Ended]) -> Course:
        traces = [each.assembly.trace for each in ended]
        end_s = max(trace.last_s - trace.started_s for trace in traces)
        holders = [ended[rank] for rank in self.held]
        if self.plan.shared:
            for each in holders:
                each.snapshots.offer(each.x, each.assembly.trace.steps, end_s)
        return Course(
            MPI.COMM_SELF,
            self.plan.layout,
            self.shares,
            to_host(self.shares[0].x0()).astype(np.float64),
            list(self.held.values()),
            [each.snapshots for each in holders],
            end_s / SLOT_S if self.plan.shared else traces[0].steps,
            [to_host(each.x).astype(np.float64) for each in holders],
        )

    def _attributes(self) -> dict[str, Any]:
        plan, ranks = self.plan, self.plan.layout.ranks
        n_samples = [share.n_samples for share in self.shares]
        about = attributes.of_plan(plan, self.shares[0], n_samples, self.setting, self.derived)
        program = own_file(type(plan.config)) or plan.name
        return {
            **about,
            **provenance.describe(MPI.COMM_SELF, gpu=False),
            "command": shlex.join(["outpace", "run", str(program), "-n", str(ranks), *self.flags]),
            "claim_class": "simulated",
            "machine": self.machine.to_toml(),
            "stated_error": json.dumps(dict(self.machine.stated_error)),
            "started_utc": STARTED,
            "hostnames": [self.machine.name] * ranks,
            "cores": ranks,
            "progress": "none",
            "progress_wait_s": [],
        }
