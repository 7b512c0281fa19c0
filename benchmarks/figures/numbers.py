"""The numbers behind a figure, as a table: what is drawn, and so what a reader of the figure sees."""

import csv
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS: Final = ("panel", "title", "x_axis", "y_axis", "kind", "label", "x", "x_end", "y", "y_end")
Row = tuple[Any, ...]  # kind, label, x, x_end, y, y_end


def write(figure: "Figure", file: BinaryIO) -> None:
    """Write a row for each point of a curve, each bar, and each step of a histogram or band, as CSV.

    A point has `x` and `y` (one of them, where a line crosses the whole panel), a bar and a step also their ends.
    """
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    x_axis = ""
    for axes in reversed(figure.axes):  # panels share the axis of the one below them
        x_axis = axes.get_xlabel() or x_axis
        axes.set_gid(x_axis)
    for number, axes in enumerate(figure.axes, 1):
        about = (number, *(" ".join(of.split()) for of in (_title(axes), str(axes.get_gid()), axes.get_ylabel())))
        writer.writerows((*about, *row) for row in _rows(axes))
    text.detach()  # flushed, and left open for its owner


def _title(axes: "Axes") -> str:
    return axes.get_title(loc="left") or axes.get_title()


def _rows(axes: "Axes") -> Iterator[Row]:
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Rectangle, StepPatch

    named = {(line.get_color(), str(line.get_linestyle())): _label(line) for line in axes.get_lines() if _label(line)}
    for line in axes.get_lines():
        look = line.get_color(), str(line.get_linestyle())
        label = _label(line) or named.get(look, "")  # a single run of a median has no name of its own
        of_data = line.get_transform().contains_branch_seperately(axes.transData)  # matplotlib's spelling
        points = zip(np.asarray(line.get_xdata()), np.asarray(line.get_ydata()), strict=True)
        for x, y in [next(points, ("", ""))] if not all(of_data) else points:
            yield "point", label, x if of_data[0] else "", "", y if of_data[1] else "", ""
    for patch in axes.patches:
        if isinstance(patch, StepPatch):
            values, edges, baseline = patch.get_data()
            for step in zip(edges[:-1], edges[1:], np.broadcast_to(baseline, len(values)), values, strict=True):
                yield "step", _label(patch), *step
        elif isinstance(patch, Rectangle):
            (x, y), (x_end, y_end) = patch.get_bbox().get_points()
            yield "bar", _label(patch), x, x_end, y, y_end
    for collection in axes.collections:
        if not isinstance(collection, PolyCollection):
            continue
        for path in collection.get_paths():
            corners = np.asarray(path.vertices)
            if len(corners) <= 5:  # a bar of a timeline
                (x, y), (x_end, y_end) = path.get_extents().get_points()
                yield "bar", _label(collection), x, x_end, y, y_end
            else:
                yield from _band(corners, _label(collection))


def _band(vertices: NDArray[Any], label: str) -> Iterator[Row]:
    bounds: dict[float, list[float]] = {}
    for x, y in vertices.tolist():
        bounds.setdefault(x, []).append(y)
    for x, ys in sorted(bounds.items()):
        yield "band", label, x, "", min(ys), max(ys)


def _label(artist: Any) -> str:
    label = str(artist.get_label())
    return "" if label.startswith("_") else label
