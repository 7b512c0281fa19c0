"""How a run looks in every figure, and what it is called: one colour and marker for each program, one dash pattern for
each level of stragglers and links and each group, so that a print in grey can be read."""

import math
from collections.abc import Sequence
from typing import Any, Final

from outpace.benchmarks.figures import links
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
    "gradient_tracking": ("#4477AA", (6, 1, 0)),  # a star of six points
    "sgp": ("#6699CC", (3, 1, 0)),
    "eamsgd": ("#56B4E9", "p"),
    "m_sync_sgd": ("#DDCC77", "d"),
    "ringmaster_asgd": ("#661100", (3, 0, 30)),
    "sign_sgd": ("#CC79A7", "X"),
    "quantized_sgd": ("#999933", "P"),
    "svrg": ("#777777", "<"),
    "katyusha_x": ("#882255", ">"),
    "local_sgd": ("#88CCEE", "H"),
    "gossip_local_sgd": ("#44AA99", (4, 1, 0)),  # a star with four points
    "choco_sgd": ("#AA4466", (4, 0, 20)),  # a square, tilted
    "powersgd": ("#BBBBBB", (4, 1, 45)),  # a star of four points, tilted
}
VARIANTS: Final = {  # by name of the run
    "Adam": ("#332288", "*"),
    "D-PSGD, adapt-combine": ("#004488", (5, 0, 180)),  # a pentagon on its tip
    "D-Lion": ("#EE8866", (3, 1, 180)),
    "sto-signSGD": ("#EE99AA", (7, 0, 0)),
    "Ringleader ASGD": ("#CC6677", (3, 0, -30)),
    "Katyusha Xʷ": ("#AA4499", "h"),
    "Katyusha Xˢ, stratified": ("#117733", "8"),
    "DiLoCo": ("#6F4C9B", (8, 1, 0)),
    "NoLoCo": ("#225555", (5, 1, 180)),
}
OTHERS: Final = (("#555555", "*"), ("#AAAAAA", "h"), ("#333333", "d"))  # programs that are not in the table
DASHES: Final = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)), (0, (10, 3)), (0, (3, 4)))
FULL_SPEED: Final = (1.0, 0, "none", -math.inf, "none")  # the level without stragglers and links
LAW: Final[dict[str, Any]] = {"color": "0.25", "linewidth": 0.9, "zorder": 4}  # a law or a reference, always dashed


def look_of(run: Run, runs: Sequence[Run], told: bool = False) -> dict[str, Any]:
    """Colour and marker of the run's program, dashes of its level and group among those of the figure: of its group
    alone where its level is `told` by an axis or a title."""
    algorithm = run.attrs["algorithm"]
    others = sorted({other.attrs["algorithm"] for other in runs} - PALETTE.keys())
    colour, marker = VARIANTS.get(run.title) or PALETTE.get(algorithm) or OTHERS[others.index(algorithm) % len(OTHERS)]
    levels = {other.path: FULL_SPEED if told else level_of(other) for other in runs}
    solid = FULL_SPEED, min(other.group for other in runs)  # whether a run has it or not
    settings = sorted({solid} | {(levels[other.path], other.group) for other in runs})
    if len(settings) > len(DASHES):
        raise UserError(
            f"{len(settings) - 1} settings of stragglers, links and groups in one figure; allowed: {len(DASHES) - 1} "
            "besides none; --where takes some of the traces"
        )
    return {"color": colour, "marker": marker, "linestyle": DASHES[settings.index((levels[run.path], run.group))]}


def order_of(run: Run) -> tuple[Any, ...]:
    """The key by which figures sort their runs: the palette's order, the run's title and group, its level, workers."""
    algorithm, known = run.attrs["algorithm"], list(PALETTE)
    place = known.index(algorithm) if algorithm in known else len(known)
    return place, run.title, run.group, level_of(run), run.attrs["n_workers"]


def level_of(run: Run) -> tuple[Any, ...]:
    """What slows the run down, its stragglers and links, as a key by which the mildest level comes first."""
    return *pace_of(run), -links.slowest(run.links), run.links


def pace_of(run: Run) -> tuple[float, int, str]:
    """Its stragglers alone: the factor and on how many ranks, infinite where no one factor says it."""
    factor, count = (math.inf, 0) if (slowed := run.slowed()) is None else (slowed[1], len(slowed[0]))
    return factor, count, run.attrs["stragglers"]


def differing(run: Run, runs: Sequence[Run]) -> list[str]:
    """The run's stragglers and links in words, those in which the runs of the figure differ."""
    stragglers = [run.level] if len({each.attrs["stragglers"] for each in runs}) > 1 else []
    return stragglers + ([links.in_words(run.links)] if len({each.links for each in runs}) > 1 else [])


def alike(runs: Sequence[Run]) -> list[str]:
    """The stragglers and links in words that all runs have: they stand above the panels and in no label."""
    run = runs[0]
    whole = [run.level] if run.links == "none" else [run.level, links.in_words(run.links)]
    return [words for words in whole if words not in differing(run, runs)]


def level_in_words(run: Run, runs: Sequence[Run]) -> str:
    """The run's stragglers, and its links where some run of the figure has any."""
    linked = any(each.links != "none" for each in runs)
    return f"{run.level}, {links.in_words(run.links)}" if linked else run.level


def label_of(run: Run, runs: Sequence[Run]) -> str:
    """What tells the run from the others of the figure, for instance "AD-PSGD, rank 3 slowed 10×"."""
    return ", ".join([run.name, *differing(run, runs)])
