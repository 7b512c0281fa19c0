"""The page of a figure: its sizes and style, text that fits, the facts above the panels and the legend below."""

import io
import json
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from outpace.benchmarks.figures.grouping import compute_per_sample
from outpace.benchmarks.figures.looks import alike
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH: Final = 3.5  # inches: one column of a two-column page
HEIGHT: Final = 1.95  # inches: one panel with its labels, without the facts above and the legend below
LINE: Final = 55  # characters of 8 pt in WIDTH
ENTRY: Final = 42  # the same beside a handle of the legend or above a panel
LINE_HEIGHT: Final = 0.14  # inches of a line of text
NARROWEST: Final = 2.8  # inches that --width may be, for text of 8 pt
WIDEST: Final = 20.0
SHRUNK: Final = 0.8  # of its own width, to which a figure may be drawn narrower
MOST_PANELS: Final = 10  # above one another
NO_BREAK: Final = "\u00a0"  # a space at which no line ends

_room: ContextVar[float] = ContextVar("room", default=1.0)  # for text, of that in WIDTH

STYLE: Final = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "figure.titlesize": 8,
    "figure.labelsize": 8,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # a name may have dollars
    "pdf.fonttype": 42,  # journals refuse Type 3 fonts
    "svg.fonttype": "none",  # text that can be searched and edited
    "savefig.dpi": 300,
}


def house_style() -> Any:
    """The style of all figures, whatever the user's matplotlibrc says; entered before other parts of matplotlib load.

    A notebook hands its MPLBACKEND to what it starts, and importing matplotlib fails where that one is not installed.
    """
    os.environ["MPLBACKEND"] = "agg"
    import matplotlib.style

    return matplotlib.style.context(["default", STYLE])


def png(figure: "Figure", dpi: int) -> bytes:
    """A figure as a picture, to stand in a page."""
    picture = io.BytesIO()
    with house_style():
        figure.savefig(picture, format="png", dpi=dpi)
    return picture.getvalue()


def facts_of(runs: Sequence[Run], note: str, width: float) -> str:
    """What every figure states: problem, split, workers, stragglers and links that all have, claim class, emulated
    compute time; for so many inches."""
    counts = sorted({run.attrs["n_workers"] for run in runs})
    numbers = f" {'to' if len(counts) > 2 else 'and'} ".join(map(str, sorted({counts[0], counts[-1]})))
    workers = f"{numbers} worker{'s' * (counts[-1] > 1)}"
    kinds, problems = (
        " and ".join(dict.fromkeys(texts))
        for texts in zip(*((run.attrs["split"], run.attrs["problem"]) for run in runs), strict=True)
    )
    facts = [problems, f"split {kinds}", workers, *alike(runs), note, _claims(runs)]
    line = int(LINE * width / WIDTH)
    whole = [fact.replace(" ", NO_BREAK) if len(fact) < line else fact for fact in facts if fact]
    return wrapped("; ".join(whole), line)


def _claims(runs: Sequence[Run]) -> str:
    """Each claim class once, and of simulated runs the machines that they suppose, and how wrong such predictions have
    been: which a figure shows that has real ones beside them."""
    real = [run for run in runs if run.attrs["claim_class"] != "simulated"]
    machines: dict[str, list[str]] = {}  # what else the simulated runs suppose -> theirs
    for run in runs:
        if run not in real:
            machines.setdefault(_supposed(run, told=not real), []).append(_machine(run))
    simulated = [f"simulated on {', '.join(dict.fromkeys(names))}{rest}" for rest, names in machines.items()]
    return " and ".join(dict.fromkeys([*map(_claim, real), *simulated]))


def _claim(run: Run) -> str:
    claim, config = str(run.attrs["claim_class"]), run.config
    if not compute_per_sample(run):
        return claim
    return f"{claim}: compute slept to {1e3 * config['compute_time']:g} ms per {config['batch_size']} samples"


def _machine(run: Run) -> str:
    return str(next(iter(run.attrs.get("hostnames", [])), "an unknown machine"))


def _supposed(run: Run, told: bool) -> str:
    """What a simulated run supposes beside its machine, and, if it is to be told, the error."""
    config, errors = run.config, json.loads(run.attrs.get("stated_error", "{}"))
    facts = [""]
    if compute_per_sample(run):
        facts.append(f"{1e3 * config['compute_time']:g} ms per {config['batch_size']} samples")
    if config.get("wire_bytes"):
        facts.append(f"messages as of a model of {config['wire_bytes'] / 1e6:g} MB")
    stated = ", ".join(f"{kind} {error}" for kind, error in errors.items())
    return ", ".join(facts) + (f"; error {stated or 'not stated'}" if told else "")


def add_legend(figure: "Figure") -> None:
    """One legend below all panels, in as many columns as fit; the figure grows by its height."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if not entries:
        return
    labels = [wrapped(label, ENTRY) for label in entries]
    for columns in range(8, 0, -1):
        legend = figure.legend(entries.values(), labels, loc="outside lower center", ncols=columns)
        box = legend.get_window_extent()
        if box.width <= figure.bbox.width or columns == 1:
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + box.height / figure.dpi)


def _legend_inside(figure: "Figure") -> None:
    """One legend in the first panel that has entries, where it covers least."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        panel = next(axes for axes in figure.axes if axes.get_legend_handles_labels()[1])
        panel.legend(entries.values(), [wrapped(label, ENTRY // 2) for label in entries], loc="best")


LEGENDS: Final[dict[str, Callable[["Figure"], None]]] = {
    "outside": add_legend,
    "inside": _legend_inside,
    "none": lambda figure: None,
}


@contextmanager
def narrowed(width: float | None) -> Iterator[None]:
    """Text is wrapped for this width meanwhile. Raises UserError for one that no figure can have."""
    if width is not None and not NARROWEST <= width <= WIDEST:
        raise UserError(f"--width is {width:g}; it must be from {NARROWEST:g} to {WIDEST:g} inches")
    token = _room.set(min(1.0, (width or WIDTH) / WIDTH))
    try:
        yield
    finally:
        _room.reset(token)


def set_width(name: str, figure: "Figure", width: float) -> None:
    """Make a figure so many inches wide. Raises UserError where its panels have no room then."""
    own = figure.get_figwidth()
    if width < SHRUNK * own:
        least = f"side by side its panels need at least {SHRUNK * own:.2g} inches"
        raise UserError(f"{name}: --width is {width:g}; {least}")
    figure.set_figwidth(width)
    for axes in figure.axes:
        axes.set_xlabel(wrapped(axes.get_xlabel(), ENTRY))


def check_panels(name: str, panels: Sequence[Any], most: int = MOST_PANELS) -> None:
    """Raise UserError for more panels above or beside one another than a page has room for."""
    if len(panels) > most:
        raise UserError(f"{name}: {len(panels)} panels; at most {most}: --where takes some of the traces")


def wrapped(text: str, width: int = LINE) -> str:
    """The text in lines that fit; the commas of a SPEC become places to break."""
    return textwrap.fill(re.sub(r",(?=\S)", ", ", text), int(width * _room.get()))


def line_count(texts: list[str]) -> int:
    return sum(text.count("\n") + 1 for text in texts)
