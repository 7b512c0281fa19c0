"""How a run looks in every figure: one colour and marker for each program, one dash pattern for each straggler setting
and group, so that a print in grey can be read."""

import math
from collections.abc import Sequence
from typing import Any, Final

from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

# Colour and marker by algorithm, in the order in which figures list the programs. The colours are Okabe and Ito's,
# without the yellow that is lost on paper; grey and the last two (Tol's muted scheme) differ from the others in
# lightness.
PALETTE: Final = {
    "allreduce_sgd": ("#000000", "s"),
    "a_psgd": ("#E69F00", "^"),
    "d_psgd": ("#0072B2", "D"),
    "ad_psgd": ("#D55E00", "o"),
    "d2": ("#009E73", "v"),
    "eamsgd": ("#56B4E9", "p"),
    "sign_sgd": ("#CC79A7", "X"),
    "quantized_sgd": ("#999933", "P"),
    "svrg": ("#777777", "<"),
    "katyusha_x": ("#882255", ">"),
}
VARIANTS: Final = {"Katyusha Xʷ": ("#AA4499", "h"), "Katyusha Xˢ, stratified": ("#117733", "8")}  # by name of the run
OTHERS: Final = (("#555555", "*"), ("#AAAAAA", "h"), ("#333333", "d"))  # programs that are not in the table
DASHES: Final = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)), (0, (10, 3)), (0, (3, 4)))
LAW: Final[dict[str, Any]] = {"color": "0.25", "linewidth": 0.9, "zorder": 4}  # a law or a reference, always dashed


def look_of(run: Run, runs: Sequence[Run], told: bool = False) -> dict[str, Any]:
    """Colour and marker of the run's program, dashes of its stragglers and group among those of the figure: of its
    group alone where its stragglers are `told` by an axis or a title."""
    algorithm = run.attrs["algorithm"]
    others = sorted({other.attrs["algorithm"] for other in runs} - PALETTE.keys())
    colour, marker = VARIANTS.get(run.title) or PALETTE.get(algorithm) or OTHERS[others.index(algorithm) % len(OTHERS)]
    full_speed = (1.0, 0), "none"
    levels = {other.path: full_speed if told else (slowness(other), other.attrs["stragglers"]) for other in runs}
    solid = full_speed, min(other.group for other in runs)  # whether a run has it or not
    settings = sorted({solid} | {(levels[other.path], other.group) for other in runs})
    if len(settings) > len(DASHES):
        raise UserError(
            f"{len(settings) - 1} settings of stragglers and groups in one figure; allowed: {len(DASHES) - 1} besides "
            "none; --where takes some of the traces"
        )
    return {"color": colour, "marker": marker, "linestyle": DASHES[settings.index((levels[run.path], run.group))]}


def order_of(run: Run) -> tuple[Any, ...]:
    """The key by which figures sort their runs: the palette's order, the run's title and group, how slow it is made,
    workers."""
    algorithm, known = run.attrs["algorithm"], list(PALETTE)
    place = known.index(algorithm) if algorithm in known else len(known)
    return place, run.title, run.group, *slowness(run), run.attrs["stragglers"], run.attrs["n_workers"]


def one_level(runs: Sequence[Run]) -> bool:
    """Whether all runs have the same stragglers, which then stand above the panels and in no label."""
    return len({run.attrs["stragglers"] for run in runs}) == 1


def label_of(run: Run, runs: Sequence[Run]) -> str:
    """What tells the run from the others of the figure."""
    return run.name if one_level(runs) else run.label


def slowness(run: Run) -> tuple[float, int]:
    """The injected factor and on how many ranks, to sort by; infinite where no one factor says it."""
    slowed = run.slowed()
    return (math.inf, 0) if slowed is None else (slowed[1], len(slowed[0]))
