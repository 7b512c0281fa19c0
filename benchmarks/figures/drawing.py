"""How values are drawn, whatever the figure: curves and points, their repetitions, logarithmic axes.

Fewer than ten repetitions are drawn thin with their median thick, ten or more as their median with its 95 % interval.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from outpace.benchmarks.figures.grouping import repetitions
from outpace.benchmarks.figures.looks import label_of, look_of
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INTERVAL_FROM: Final = 10  # repetitions from which an interval replaces the single runs
LARGEST: Final = 1e200  # what is drawn; near the largest double the spacing of ticks overflows
NOTHING: Final = {"linestyle": "", "marker": ""}  # the look of what stands in the legend alone
APART: Final = 1.025  # factor between the places of two programs at one x, so that neither hides the other
BOOTSTRAP: Final = 71  # purpose of the random numbers behind the intervals of ratios


Curve = tuple[NDArray[Any], NDArray[Any]]  # its points' x and y


def draw_curves(
    runs: Sequence[Run],
    axes: "Axes",
    x: tuple[str, str],
    y: tuple[str | Callable[[Run], NDArray[Any]], str],
    log: bool = False,
    share: bool = False,
) -> str:
    """Draw a column of /evaluations against another, each given with its axis label; return the note.

    Instead of a column, y may be what makes its values from the run. A `share` is drawn from 0, the worst, to 1; other
    columns are the worse the larger they are.
    """
    drawn, unseen = plot_curves(runs, runs, axes, x[0], y[0], log, share)
    frame([axes], drawn, x[1], log, share)
    axes.set_ylabel(y[1])
    return together([how_repeated(repetitions(runs)), *unseen])


def plot_curves(
    runs: Sequence[Run],
    of_figure: Sequence[Run],
    axes: "Axes",
    x: str,
    y: str | Callable[[Run], NDArray[Any]],
    log: bool = False,
    share: bool = False,
    told: bool = False,
) -> tuple[list[Curve], list[str]]:
    """Plot the curves of some runs of a figure; return one for each run, and of those that have no point to draw the
    names and why. `told`: a title names their stragglers."""
    worst = 0.0 if share else math.inf
    drawn, unseen = [], []
    for group in repetitions(runs):
        look = look_of(group[0], of_figure, told)
        curves = [_curve(run, x, y, worst) for run in group]
        drawn += curves
        label = (group[0].name if told else label_of(group[0], of_figure)) + how_ended(group)
        if len(group) > 1:
            grid, table = _on_one_grid(group, curves, worst)
            if len(group) < INTERVAL_FROM:
                for curve in curves:
                    axes.plot(*curve, color=look["color"], linestyle=look["linestyle"], linewidth=0.5, alpha=0.6)
            else:
                axes.fill_between(grid, *interval_of_median(table), color=look["color"], alpha=0.2, linewidth=0)
            curves = [(grid, np.median(table, axis=0))]
        xs, ys = curves[0]
        shown = np.isfinite(ys) & (ys > 0 if log else True)  # matplotlib cannot space markers along nothing
        if shown.any():
            axes.plot(xs[shown], ys[shown], label=label, markevery=0.15, **look)
        else:
            unseen.append(f"{'not finite' if ys.any() else 'exactly 0'}: {group[0].name}{how_ended(group)}")
    return drawn, list(dict.fromkeys(unseen))


def frame(
    panels: Sequence["Axes"], drawn: Sequence[Curve], x_label: str, log: bool = False, share: bool = False
) -> None:
    """Give all panels the axes on which these curves can be read."""
    ends = [xs[-1] for xs, _ in drawn]
    wide = max(ends) >= 5 * min(ends) > 0  # on a linear axis the fast runs would stand in a corner
    for axes in panels:
        if share:
            axes.set_ylim(0, 1)
        else:
            _fit(axes, [values for _, values in drawn], log)
        if wide:
            first = _round_down(min(xs[xs > 0][0] for xs, _ in drawn))
            axes.set_xscale("symlog", linthresh=first, linscale=0.3)
            decades = 10.0 ** np.arange(math.floor(math.log10(first)), math.log10(max(ends)))
            steps = (1, 2, 5) if max(ends) < 30 * first else (1,)
            ticks = {first} | {step * decade for decade in decades for step in steps if step * decade >= first}
            bare = {first} if len(panels) > 1 else set()  # a small panel has no room for it beside the 0
            labels = ["" if tick in bare else f"{tick:g}" for tick in sorted(ticks)]
            axes.set_xticks([0.0, *sorted(ticks)], ["0", *labels])
            axes.set_xticks([], minor=True)
            axes.set_xlabel(f"{x_label}, linear up to {first:g}")
        else:
            axes.set_xlabel(x_label)
        axes.set_xlim(left=0)
        _do_not_cut(axes)


def _round_down(value: float) -> float:
    """The next of 1, 2, 5, 10, ... at or below it."""
    decade = 10.0 ** math.floor(math.log10(value))
    return float(max(step * decade for step in (1, 2, 5) if step * decade <= value))


def _do_not_cut(axes: "Axes") -> None:
    """Let markers of curves that are wholly in view stand over the panel's edge."""
    low, high = axes.get_ylim()
    for line in axes.get_lines():
        ys = np.asarray(line.get_ydata(), dtype=float)
        line.set_clip_on(bool(len(ys) and (ys.min() < low or ys.max() > high)))


def _fit(axes: "Axes", curves: list[NDArray[Any]], log: bool) -> None:
    """Make the y axis logarithmic where the curves span a factor of ten, and do not let one that explodes flatten the
    others."""
    values = np.concatenate(curves)
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    if log or (len(positive) == len(values) > 0 and positive.max() >= 10 * positive.min()):
        log_axis(axes)
    start = max((curve[0] for curve in curves if np.isfinite(curve[0])), default=math.inf)
    if 0 < 10 * start < values.max(initial=0):
        axes.set_ylim(0.7 * positive.min() if axes.get_yscale() == "log" else None, 10 * start)


def _curve(run: Run, x: str, y: str | Callable[[Run], NDArray[Any]], worst: float) -> Curve:
    xs, ys = run.column("evaluations", x), y(run) if callable(y) else run.column("evaluations", y)
    if not len(xs):
        raise UserError(f"{run.path}: no evaluation in /evaluations")
    return xs, np.where(np.abs(ys) < LARGEST, ys, worst)


def _on_one_grid(group: list[Run], curves: list[Curve], worst: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Repetitions at all points x that every run reached, shapes (points,) and (runs, points).

    A run that diverged counts as `worst` from its end on: it would be worse than the median, not absent.
    """
    diverged = [run.attrs["status"] == "diverged" for run in group]
    start = max(xs[0] for xs, _ in curves)
    end = min(xs[-1] for (xs, _), gone in zip(curves, diverged, strict=True) if not gone or all(diverged))
    grid = np.unique(np.concatenate([xs for xs, _ in curves]))
    grid = grid[(grid >= start) & (grid <= end)]
    table = [
        np.interp(grid, xs, ys, right=worst if gone else None) for (xs, ys), gone in zip(curves, diverged, strict=True)
    ]
    return grid, np.nan_to_num(table, nan=math.inf, posinf=math.inf)


def draw_points(
    axes: "Axes",
    values: dict[float, list[float]],
    base: list[float] | None,
    label: str = "",
    most: float = math.inf,
    **look: Any,
) -> None:
    """Draw the medians of `values` against their keys, in units of the median of `base` where given; what is more than
    `most` is drawn there.

    Where half of the values are infinite the median is: between a time and none there is no mean.
    """
    unit = np.median(base) if base else 1.0
    xs = sorted(values)
    medians = np.minimum([np.median(values[x]) / unit for x in xs], most)
    if np.isfinite(medians).any():
        axes.plot(xs, medians, label=label, **look)
    elif label:  # the legend tells of it, and shows no curve
        axes.plot([], [], label=f"{label}, never", **look | NOTHING)
    for x in xs:
        each = np.minimum(np.array(values[x]) / unit, most)
        if len(each) < INTERVAL_FROM or (base and len(base) < INTERVAL_FROM):
            if len(each) > 1:
                small = {"linestyle": "", "markersize": 3, "markerfacecolor": "none", "markeredgewidth": 0.5}
                axes.plot([x] * len(each), each, zorder=1.5, **{**look, **small})
        elif values[x] is not base:
            low, high = _ratio_interval(values[x], base) if base else interval_of_median(each)
            axes.vlines(x, low, high, color=look["color"], linewidth=0.9)
            axes.plot([x, x], [low, high], linestyle="", marker="_", markersize=5, color=look["color"])


def side_by_side(place: int, count: int) -> float:
    """The factor by which the curve of this place among `count` stands beside its ticks on a logarithmic axis."""
    return float(APART ** (place - (count - 1) / 2))


def interval_of_median(values: NDArray[Any]) -> tuple[Any, Any]:
    """The 95 % interval of the median along axis 0, by order statistics; 6 values or more.

    Of 10 values the 2nd and the 9th, which cover 97.9 %.
    """
    n = len(values)
    below = np.cumsum([math.comb(n, k) / 2**n for k in range(n)])  # P(at most k values are below the median)
    k = int(np.searchsorted(below, 0.025, side="right")) - 1
    ordered = np.sort(values, axis=0)
    return ordered[k], ordered[n - 1 - k]


def _ratio_interval(values: list[float], base: list[float]) -> tuple[float, float]:
    """The 95 % interval of median(values) / median(base), by bootstrap over launches."""
    rng = np.random.default_rng([BOOTSTRAP])
    above = np.median(rng.choice(values, (10_000, len(values))), axis=1)
    low, high = np.quantile(above / np.median(rng.choice(base, (10_000, len(base))), axis=1), [0.025, 0.975])
    return float(low), float(high)


def told_of_points(groups: Sequence[Sequence[Any]], beside: str = "") -> str:
    """The same of points: single ones are open, and curves may stand side by side at each value of `beside`."""
    return together([how_repeated(groups, "open"), beside and f"curves side by side at each {beside}"])


def together(notes: Iterable[str]) -> str:
    return "; ".join(filter(None, notes))


def how_repeated(groups: Sequence[Sequence[Any]], single: str = "thin") -> str:
    """What a figure says of its repetitions, and by what it shows single runs; nothing where there are none."""
    counts = sorted({len(group) for group in groups})
    if counts == [1]:
        return ""
    number = f"{counts[0]} runs" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} runs"
    thin = f", {single}: each run" if counts[0] < INTERVAL_FROM else ""
    interval = ", with 95 % intervals" if counts[-1] >= INTERVAL_FROM else ""
    return f"medians of {number}{thin}{interval}"


def how_ended(group: Sequence[Run]) -> str:
    """What a label says of runs that did not come to their end."""
    statuses = [run.attrs["status"] for run in group]
    of = f"of {len(group)} " if len(group) > 1 else ""
    counts = {status: statuses.count(status) for status in ("partial", "diverged") if status in statuses}
    return "".join(f", {f'{count} {of}' if of else ''}{status}" for status, count in counts.items())


def log_axis(axes: "Axes") -> None:
    """Make the y axis logarithmic, with more ticks the fewer decades it has; zeros are not drawn."""
    import matplotlib.ticker

    axes.set_yscale("log", nonpositive="mask")
    low, high = axes.get_ylim()
    subs = (1, 1.5, 2, 3, 4, 5, 6, 8) if high < 5 * low else (1, 2, 5) if high < 300 * low else (1,)
    axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(_plain)
    axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def _plain(value: float, _: float) -> str:
    """A tick label without an exponent above the line, which would be smaller than 8 pt."""
    return f"{value:g}".replace("e-0", "e-").replace("e+0", "e")


def log_ticks(axes: "Axes", ticks: Sequence[float], labels: Sequence[str] = ()) -> None:
    """A logarithmic x axis with a tick at each of these values, labelled by it where no labels are given."""
    axes.set_xscale("log")
    axes.set_xticks(ticks, labels or [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
