"""The row of a program in the conformance table."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import numpy as np

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.conformance.verdict import Broken, NotApplicable
from outpace.comm.errors import UserError

GRAPHS: Final = (
    "ring",
    "ring:lazy=1",
    "path",
    "star",
    "complete",
    "torus",
    "hypercube",
    "exponential",
    "random-regular:degree=3",
    "erdos-renyi:p=0.7",
    "static-exponential",
    "one-peer",
)


@dataclass(frozen=True)
class Row:
    """A program's contract.

    `cost(n, dim, degrees)` is the bytes that each rank sends per round, shape (n,), for dim float64 numbers; for an
    asynchronous program the bytes of all ranks together, per gradient, as a range (least, most). `work(cfg, n_total, n,
    steps)` is the rounds, and the samples in the gradients of all workers, that the steps take. `reference` has
    `run(shares, cfg, steps)`, the models of all workers after the steps, shape (n, dim), computed in one process.
    """

    program: ModuleType
    synchronous: bool
    cost: Callable[[int, int, np.ndarray], Any] | None = None
    reference: Any = None
    work: Callable[[Any, int, int, int], tuple[int, int]] = lambda cfg, n_total, n, steps: (
        steps,
        steps * n * cfg.batch_size,
    )
    gossip: bool = False  # takes --topology
    matrices: bool = False  # takes problems only whose parameters are matrices
    spread: bool = True  # finds the minimum of the mean where the workers' own minima differ
    # Whether the program can use a mixing matrix, those it refuses beforehand apart; None: as its Config.check says.
    fits: Callable[[np.ndarray], bool] | None = lambda W: True
    # Whether n ranks can run it; None: those that its Config.check accepts.
    allowed: Callable[[int], bool] | None = None
    refused: tuple[tuple[int, dict[str, Any]], ...] = ()  # (n, config) that raise UserError on every rank
    variants: tuple[dict[str, Any], ...] = ({},)

    @property
    def pace(self) -> dict[str, Any]:
        """Emulated compute time for asynchronous programs: without it a run is over before a rank has its turn."""
        return self.paces[0]

    @property
    def paces(self) -> tuple[dict[str, Any], ...]:
        """The usual one, and slower ones at which even a busy machine gives every worker its turns."""
        return ({},) if self.synchronous else tuple({"compute_time": seconds} for seconds in (0.001, 0.01, 0.1))

    def problem(self, quadratic: str) -> str:
        """The SPEC of a quadratic problem of an even dim as this program can take it."""
        return f"{quadratic},rows=2" if self.matrices else quadratic

    @property
    def name(self) -> str:
        return self.program.__name__.rpartition(".")[2]

    def servers(self, config: dict[str, Any]) -> int:
        """How many of the ranks serve; the others are workers."""
        return int(config.get("servers", self.program.Config.servers))

    def gradients(self, config: dict[str, Any], n: int, steps: int) -> int:
        """Gradients that n workers are to make in so many steps; where a server counts rounds, that are to be
        applied in so many of them."""
        cfg = self.program.Config(**config)
        return self.work(cfg, 0, n, steps)[1] // cfg.batch_size if cfg.rounds else steps * n


REQUIRED: Final = ("step_size", "batch_size", "dtype", "seed")  # flags
OPTIONAL: Final = ("allowed", "cost", "reference", "work", "variants", "refused", "fits", "spread")


def row_of(program: ModuleType) -> Row:
    """The row of a user's program: what its Config tells, and what else the file defines under a name of OPTIONAL.

    There `reference(shares, cfg, steps)` is a function; the others are as in Row.
    """
    given = {name: value for name, value in vars(program).items() if name in OPTIONAL}
    if "reference" in given:
        given["reference"] = SimpleNamespace(run=given["reference"])
    config = program.Config()
    if not isinstance(config, ProgramConfig):
        raise UserError("Config is not derived from outpace.benchmarks.config.ProgramConfig")
    for flag in REQUIRED:
        if not hasattr(config, flag):
            raise UserError(f"Config has no {flag}, which every program has")
    return Row(
        program,
        synchronous=not config.asynchronous,
        gossip=config.topology is not None,
        **{"fits": None, **given},
    )


def configurations(row: Row, n: int, graphs: int | None = None) -> list[dict[str, Any]]:
    """What the row is run with on n ranks: its first variant on every graph, or on so many, each other one on one.

    Raises NotApplicable where that is nothing.
    """
    if row.allowed and not row.allowed(n):
        raise NotApplicable("not allowed")
    variants = [variant for variant in row.variants if row.servers(variant) < n]
    if not variants:
        raise NotApplicable("no worker beside the server")
    usable = [{"topology": text} for text in GRAPHS if _usable(row, text, n)] if row.gossip else [{}]
    found = [{**variants[0], **graph} for graph in usable[:graphs]]
    found += [{**variant, **graph} for variant in variants[1:] for graph in usable[:1]]
    if row.fits:
        return found
    refusals = [_refusal(row, config, n) for config in found]
    accepted = [config for config, refusal in zip(found, refusals, strict=True) if not refusal]
    if not accepted:
        raise (Broken if row.allowed else NotApplicable)(f"Config.check: {refusals[0]}")
    return accepted


def _usable(row: Row, text: str, n: int) -> bool:
    try:
        matrices = row.program.Config.mixing(text, n)
    except UserError:
        return False
    return row.fits is None or all(map(row.fits, matrices))


def _refusal(row: Row, config: dict[str, Any], n: int) -> str:
    """Why the program's Config refuses so many ranks; empty where it does not."""
    try:
        row.program.Config(**config).check(n - row.servers(config))
    except UserError as refusal:
        return str(refusal)
    return ""


def ring_allreduce(n: int, nbytes: int) -> np.ndarray:
    """Bytes that each rank sends in an Allreduce of so many, shape (n,): 2(n-1)/n of them; chunks are cut at whole
    bytes."""
    chunks = np.diff(nbytes * np.arange(n + 1) // n)
    return 2 * (nbytes - chunks) if n > 1 else np.zeros(1)
