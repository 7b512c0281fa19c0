"""The figures over traces, behind `outpace plot`: one function each, all in the table FIGURES.

They stand in `curves`, `rates`, `steps` and `facets`, by what they show. A figure function gets the runs and an empty
matplotlib figure of one column's width, fills it and returns what its readers must know of how repetitions are drawn.
`compose` adds what every figure states (problem, split, workers, claim class) and the legend outside of the data. A new
figure is one function and one row of FIGURES; the first line of its docstring is what `outpace plot` lists.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from outpace.benchmarks.figures import numbers
from outpace.benchmarks.figures.curves import (
    accuracy_epochs,
    accuracy_time,
    consensus,
    geometry,
    gradient_mean,
    held_out_loss_epochs,
    held_out_loss_time,
    loss_epochs,
    loss_time,
    noise,
    suboptimality_gradients,
    suboptimality_rounds,
)
from outpace.benchmarks.figures.facets import bandwidth, heterogeneity, loss_facets, splits
from outpace.benchmarks.figures.grouping import apart, compute_per_sample, difference, group_by
from outpace.benchmarks.figures.page import (
    HEIGHT,
    LEGENDS,
    WIDTH,
    facts_of,
    house_style,
    narrowed,
    set_width,
)
from outpace.benchmarks.figures.rates import batches, epoch_time, speed_up, step_sizes, steps_rate
from outpace.benchmarks.figures.steps import shares, staleness, timeline
from outpace.benchmarks.figures.validation import validation
from outpace.benchmarks.trace.files import output
from outpace.benchmarks.trace.run import Run, load
from outpace.benchmarks.trace.selection import chosen, key_of
from outpace.comm.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES: Final[dict[str, Callable[[Sequence[Run], "Figure"], str]]] = {
    "loss-time": loss_time,
    "loss-epochs": loss_epochs,
    "held-out-loss-time": held_out_loss_time,
    "held-out-loss-epochs": held_out_loss_epochs,
    "accuracy-time": accuracy_time,
    "accuracy-epochs": accuracy_epochs,
    "epoch-time": epoch_time,
    "speed-up": speed_up,
    "steps-rate": steps_rate,
    "splits": splits,
    "shares": shares,
    "timeline": timeline,
    "staleness": staleness,
    "consensus": consensus,
    "gradient-mean": gradient_mean,
    "suboptimality-gradients": suboptimality_gradients,
    "suboptimality-rounds": suboptimality_rounds,
    "batches": batches,
    "step-sizes": step_sizes,
    "geometry": geometry,
    "noise": noise,
    "heterogeneity": heterogeneity,
    "bandwidth": bandwidth,
    "loss-facets": loss_facets,
    "validation": validation,
}

# What all runs of a figure share, but for what the figure is about.
SHARED: Final = ("claim_class", "problem", "split", "n_workers")
ABOUT: Final = {
    "speed-up": ("n_workers",),
    "steps-rate": ("n_workers",),
    "splits": ("split", "n_workers"),
    "heterogeneity": ("split", "n_workers"),
    "loss-facets": ("split", "n_workers"),
    "validation": ("claim_class", "n_workers"),
}
TO_A_LOSS: Final = {"heterogeneity": heterogeneity, "bandwidth": bandwidth}
SUFFIXES: Final = (".pdf", ".png", ".svg")


def describe() -> list[str]:
    """One line for each figure: its name and what it shows."""
    width = max(map(len, FIGURES))
    return [f"{name:{width}}  {in_a_line(name)}" for name in FIGURES]


def in_a_line(name: str) -> str:
    """What a figure shows; nothing where Python leaves docstrings out, by -OO or PYTHONOPTIMIZE."""
    return (FIGURES[name].__doc__ or "").partition("\n")[0]


def draw(
    name: str,
    paths: Iterable[str | Path],
    out: str | Path,
    where: Sequence[str] = (),
    by: str = "",
    loss: float | None = None,
    width: float | None = None,
    legend: str = "outside",
    form: str = "",
    data: Path | None = None,
) -> None:
    """Draw the figure `name` over the traces at `paths` into the file `out`, whose suffix gives the format, unless
    `form` does; write its numbers into the CSV file `data`, too.

    `where` are conditions `NAME=VALUE` on the traces; `by`, `loss`, `width` and `legend` are as in `compose`. An
    existing `out` is replaced at the end, in one step. Raises UserError: unknown figure or suffix, no folder for `out`,
    a trace that cannot be read, traces that do not belong in one figure.
    """
    out = Path(out)
    if name not in FIGURES:
        raise UserError(f"unknown figure '{name}'; allowed: {', '.join(FIGURES)}")
    if not form and out.suffix not in SUFFIXES:
        raise UserError(f"{out}: unknown format '{out.suffix}'; allowed: {', '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise UserError(f"{out}: no folder {out.parent}")
    figure = compose(name, chosen(load(paths), where), by, loss, width, legend)
    with house_style(), output(out) as file:
        figure.savefig(file, format=form or out.suffix[1:])
    if data:
        with output(data) as file:
            numbers.write(figure, file)


def compose(
    name: str,
    runs: Sequence[Run],
    by: str = "",
    loss: float | None = None,
    width: float | None = None,
    legend: str = "outside",
) -> "Figure":
    """The figure `name` over the runs, as a matplotlib figure; curves are told apart by an attribute or flag `by`, too.
    `loss` is that to which the figures of TO_A_LOSS take the time; `width` is in inches, the figure's own by default;
    `legend` is one of LEGENDS.

    Raises UserError: no runs, runs that do not belong in one figure, a column the figure needs is missing.
    """
    if not runs:
        raise UserError(f"{name}: no trace given")
    if by:
        group_by(by, runs)
    _check_shared(name, runs, key_of(by))
    draws = FIGURES[name]
    if loss is not None:
        if name not in TO_A_LOSS:
            raise UserError(f"{name}: --loss is of the figures {' and '.join(TO_A_LOSS)}")
        draws = functools.partial(TO_A_LOSS[name], target=loss)
    with house_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        with narrowed(width):
            note = draws(runs, figure)
        if width is not None:
            set_width(name, figure, width)
        facts = figure.suptitle(facts_of(runs, note, figure.get_figwidth()), x=0.01, ha="left", color="0.3")
        figure.set_figheight(figure.get_figheight() + facts.get_window_extent().height / figure.dpi)
        with narrowed(width):
            LEGENDS[legend](figure)
    return figure


def _check_shared(name: str, runs: Sequence[Run], by: str) -> None:
    simulated = [run for run in runs if run.attrs["claim_class"] == "simulated"]
    real = [run for run in runs if run not in simulated]
    if name != "validation" and simulated and real:  # whatever they are grouped by
        raise UserError(
            f"{simulated[0].path} was simulated and {real[0].path} was not: only the figure validation sets such runs "
            "beside one another; --where claim_class=VALUE takes one kind"
        )
    for run in runs[1:]:
        for attribute in SHARED:
            values = runs[0].attrs[attribute], run.attrs[attribute]
            if attribute not in (*ABOUT.get(name, ()), by) and values[0] != values[1]:
                so = f"one figure holds one{_equal_workers(runs[0], run) if attribute == 'n_workers' else ''}"
                raise difference(runs[0], run, attribute, *values, f"{so}; {apart(attribute)}")
        compute = compute_per_sample(runs[0]), compute_per_sample(run)
        if by not in ("compute_time", "batch_size") and not math.isclose(*compute, rel_tol=1e-6):
            raise difference(runs[0], run, "compute time per sample", *compute, "one figure holds one")


def _equal_workers(*runs: Run) -> str:
    """With how many ranks the one that has servers has as many workers as the other; nothing where none has."""
    most = max(run.attrs["n_workers"] for run in runs)
    for run in runs:
        servers = len(run.attrs.get("hostnames", [])) - run.attrs["n_workers"]
        if servers > 0 and run.attrs["n_workers"] < most:
            some = f"{servers} rank{' serves' if servers == 1 else 's serve'}"
            return f"; of {run.attrs['algorithm']} {some}: -n {most + servers} has {most} workers"
    return ""
