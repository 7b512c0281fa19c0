"""What a run is to be: its flags, checked, and everything that follows from them without a file or a message."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from outpace.benchmarks import problems
from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.machine import links
from outpace.benchmarks.machine.links import LINKS
from outpace.benchmarks.problems import PROBLEMS, splits
from outpace.benchmarks.problems.splits import SPLITS
from outpace.benchmarks.running import plain_flags, stragglers
from outpace.benchmarks.running.file_hashes import own_file
from outpace.benchmarks.running.stragglers import STRAGGLERS
from outpace.benchmarks.trace.snapshots import SLOT_S
from outpace.comm import spec, topology
from outpace.comm.arrays import DeviceMessages, Fabric
from outpace.comm.errors import UserError
from outpace.comm.layout import Layout
from outpace.comm.spec import Amount, PositiveInt, Range

DEFAULT_EPOCHS: Final = 10.0


SPECS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {  # flags of `Launch` that take a SPEC: what of, and which
    "problem": ("the objective", PROBLEMS),
    "split": ("how samples are dealt to workers", SPLITS),
    "stragglers": ("delays of gradients, equal for all programs", STRAGGLERS),
    "links": ("slow links between the ranks, by `outpace run` as root", LINKS),
}


@dataclass(frozen=True)
class Launch:
    """What is common to all programs."""

    problem: str = "digits"
    split: str = "iid"
    stragglers: str = "none"
    links: str = "none"
    simulate: str | None = None  # predict the run on this machine, a TOML file or a preset's name, in simulated time
    wire_bytes: Amount | None = None  # with --simulate: messages take as long as if the model had so many bytes
    backend: Literal["auto", "numpy", "cupy"] = "auto"  # auto is the faster one, where every rank has a GPU
    device_messages: DeviceMessages = "auto"  # of arrays on a GPU: through host memory, or direct; auto as the MPI says
    fabric: Fabric = "mpi"  # what carries messages of arrays on a GPU: MPI, or NCCL, with a GPU for each rank
    epochs: Amount | None = None  # passes over the data by all workers; 10 without a time budget
    time_budget: Amount | None = None  # seconds; whichever of the two ends first
    compute_time: Annotated[float, Range(least=0, most=1e6)] = 0.0  # seconds a batch takes at least, by sleeping
    evaluations: Annotated[int, Range(least=1, most=100_000)] = (
        20  # at least so many between start and end; fewer if the run has fewer steps
    )
    checkpoint_every: Amount | None = None  # seconds between checkpoints; one is written on SIGTERM and SIGUSR1
    geometry: bool = False  # at the evaluations: densities, signal to noise, and histograms of the gradient's noise
    ranks: PositiveInt | None = None  # refuse to run unless the communicator has this size
    out: Path | None = None  # trace file; default <program>-<config id>.h5
    scratch: Path | None = None  # folder on each node's own disk for the snapshots, which else lie beside the trace
    overwrite: bool = False  # replace an existing trace, or what a killed run left; but go on from an own checkpoint
    anew: bool = False  # as --overwrite, and start anew where this command has a checkpoint


def parse_flags(
    name: str, Config: type[ProgramConfig], arguments: Sequence[str], quiet: bool = False
) -> tuple[Any, Launch]:
    """The program's Config and the Launch that the flags mean, ranges checked. SystemExit as by argparse."""
    config, launch = plain_flags.read([Config, Launch], arguments) or _by_tyro(name, Config, arguments, quiet)
    spec.check(config)
    spec.check(launch)
    return config, launch


def _by_tyro(name: str, Config: type[ProgramConfig], arguments: Sequence[str], quiet: bool) -> tuple[Any, Launch]:
    import tyro  # slow

    for flag, (purpose, catalogue) in SPECS.items():
        text = f"SPEC of {purpose}: {'; '.join(spec.forms(catalogue))}"
        Launch.__annotations__[flag] = Annotated[str, tyro.conf.arg(help=text)]
    Flags: Any = dataclasses.make_dataclass("Flags", [("program", Config), ("launch", Launch)])
    command = f"outpace run {own_file(Config) or name}"
    helped = {"-h", "--help"} & set(arguments)  # with a usage line; errors have none, and name the help by the command
    with open(os.devnull, "w") as nowhere, contextlib.ExitStack() as stack:
        if quiet:
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        flags = tyro.cli(
            tyro.conf.OmitArgPrefixes[Flags],  # type: ignore[misc]
            prog=f"{command} -n RANKS" if helped else command,
            description=sys.modules[Config.__module__].__doc__,
            args=list(arguments),
        )
    return flags.program, flags.launch


@dataclass(frozen=True)
class Plan:
    """Everything about a run that follows from its flags, the same on every rank."""

    name: str
    config: Any  # a ProgramConfig, and a dataclass
    launch: Launch
    layout: Layout  # which ranks compute and which serve
    texts: dict[str, str]  # the SPECs with defaults written out
    period: int  # steps from one agreement of a synchronous program on its end to the next
    hops: int  # steps until everybody has heard of, or waited for, everybody: as a rule the diameter of the graph
    shared: bool  # asynchronous: the workers share the budget
    inputs: Mapping[str, str]  # hashes of the files that it reads
    config_id: str
    target: Path

    @property
    def n(self) -> int:
        """Workers."""
        return self.layout.workers

    def steps(self, n_total: int) -> int | None:
        """Steps of a worker, on average where they share them, for a problem of n_total samples; None: no limit."""
        epochs = self.launch.epochs or (None if self.launch.time_budget else DEFAULT_EPOCHS)
        return None if epochs is None else max(1, round(self.config.steps_in(epochs, n_total, self.n)))

    def length(self, n_total: int) -> int | None:
        """How long the run will be in the unit of its snapshots' tags; None where that is not known beforehand."""
        steps, seconds = self.steps(n_total), self.launch.time_budget
        if self.shared:
            return int(seconds / SLOT_S) if seconds and steps is None else None
        return None if seconds else steps


def make_plan(
    name: str, config: Any, launch: Launch, ranks: int, inputs: Mapping[str, str] = MappingProxyType({})
) -> Plan:
    """Check what can be checked without a message. `inputs` are the hashes of the files that the run reads. Raises
    UserError."""
    layout = Layout(ranks - config.servers, config.servers)
    if layout.workers < 1:
        raise UserError(
            f"--servers is {config.servers}; with {ranks} rank(s) it must be less than {ranks}: the others work"
            if "servers" in dataclasses.asdict(config)
            else f"one rank serves and the others work, so {ranks} rank(s) are too few"
        )
    texts = {
        "problem": problems.canonical(launch.problem),
        "split": splits.canonical(launch.split),
        "stragglers": stragglers.canonical(launch.stragglers),
        "links": links.canonical(launch.links),
        "topology": "none",
    }
    stragglers.check_ranks(stragglers.parse(launch.stragglers), layout.workers)
    links.check_ranks(links.parse(launch.links), ranks, simulated=launch.simulate is not None)
    if launch.wire_bytes and not launch.simulate:
        raise UserError("--wire-bytes is of --simulate; messages of a real run are as long as they are")
    problems.check(launch.problem, launch.split, layout.workers)
    if launch.fabric == "nccl":
        _check_nccl(name, config, launch, linked=texts["links"] != "none")
    hops = 1
    if config.topology is not None:
        texts["topology"] = topology.canonical(config.topology)
        hops = max(1, _steps_to_all(config.mixing, config.topology, ranks))
    hops = config.reach(layout.workers, hops)
    period = max(config.agreement_period, hops)
    config.check(layout.workers)
    asked = dataclasses.asdict(config) | dataclasses.asdict(launch) | texts | {"program": name, "n": ranks}
    for output in ("ranks", "out", "scratch", "overwrite", "anew", "checkpoint_every"):
        del asked[output]
    since = {"links": "none", "simulate": None, "wire_bytes": None, "device_messages": "auto", "fabric": "mpi"}
    since |= config.younger
    for flag, value in since.items():
        if asked[flag] == value:  # ids are older than the flag: sweeps and checkpoints from before it go on
            del asked[flag]
    if inputs:
        asked["inputs"] = dict(inputs)
    config_id = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    target = launch.out or Path(f"{name}-{config_id}.h5")
    return Plan(name, config, launch, layout, texts, period, hops, config.asynchronous, inputs, config_id, target)


def _check_nccl(name: str, config: ProgramConfig, launch: Launch, linked: bool) -> None:
    """Raise UserError where messages are not between GPUs, or not such as NCCL carries."""
    if launch.simulate:
        raise UserError("--fabric nccl: --simulate has no GPUs; allowed: mpi")
    if not config.by_nccl:
        raise UserError(f"--fabric nccl does not carry what {name} sends; allowed: mpi")
    if launch.backend != "cupy":
        raise UserError(f"--fabric nccl carries arrays on GPUs, and --backend is {launch.backend}; it must be cupy")
    if launch.device_messages == "staged":
        raise UserError("--fabric nccl reads device memory, and --device-messages is staged; allowed: auto, direct")
    if linked:
        raise UserError("--fabric nccl: its messages would go past the --links; allowed: mpi")


@functools.cache  # a sweep asks for each of its thousands of points
def _steps_to_all(mixing: Callable[[str, int], list[topology.Matrix]], graph: str, ranks: int) -> int:
    return topology.steps_to_all(mixing(graph, ranks))
