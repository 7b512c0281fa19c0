"""What a figure shows, read back from matplotlib."""

import itertools

from matplotlib.text import Text


def lines(axes, width=1.4):
    """The labelled curves of this width, by label."""
    found = {line.get_label(): line for line in axes.get_lines() if line.get_linewidth() == width}
    return {label: line for label, line in found.items() if not label.startswith("_")}


def bars(axes):
    """(label, rank) -> [(begin, end)] of the bars in a panel."""
    found = {}
    for collection in axes.collections:
        corners = [(path.vertices.min(axis=0), path.vertices.max(axis=0)) for path in collection.get_paths()]
        rank = round((corners[0][0][1] + corners[0][1][1]) / 2)
        found[collection.get_label(), rank] = [(low[0], high[0]) for low, high in corners]
    return found


def assert_legible(figure):
    """No text is small, nothing is cut off by the page, and facts, panels and legend do not overlap."""
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 8
    x0, y0, x1, y1 = figure.get_tightbbox().padded(-0.02).extents  # inches
    width, height = figure.get_size_inches()
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    boxes = [artist.get_tightbbox().padded(-0.5) for artist in figure.texts + figure.axes + figure.legends]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
