"""Single steps: shares, staleness, timelines."""

import h5py
import numpy as np
import pytest
from drawn import assert_legible, bars
from made_traces import SLOW, simulate, write_trace

from outpace.benchmarks.figures import compose
from outpace.benchmarks.figures.steps import BARS
from outpace.benchmarks.trace import schema
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError


def test_shares_stand_beside_each_other(tmp_path):
    shares = {"data_share": [0.5, 0.25, 0.125, 0.125], "update_share": [0.1, 0.3, 0.3, 0.3]}
    (axes,) = compose("shares", [Run(write_trace(tmp_path / "a.h5", {"workers": shares}))]).axes
    heights = [bar.get_height() for bar in axes.patches]
    np.testing.assert_allclose(heights, [*shares["data_share"], *shares["update_share"]])
    (fair,) = (line for line in axes.get_lines() if "1/n" in line.get_label())
    assert set(fair.get_ydata()) == {0.25}


def test_staleness_shows_shares_mean_and_reference(tmp_path):
    sync = {"steps": {"t_s": range(8), "staleness": 8 * [0]}}
    late = {"steps": {"t_s": range(8), "staleness": [2, 3, 3, 3, 3, 3, 3, 12]}}
    runs = [
        Run(write_trace(tmp_path / "a.h5", late)),
        Run(write_trace(tmp_path / "b.h5", sync, algorithm="d_psgd")),
    ]
    figure = compose("staleness", runs)
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "AD-PSGD: mean 4"
    assert "always 0: D-PSGD" in figure.get_suptitle().replace("\u00a0", " ")  # no panel of one bar
    with pytest.raises(UserError, match="it is the same for all gradients of each run"):
        compose("staleness", runs[1:])
    values, edges, floor = axes.patches[0].get_data()
    centres = (edges[1:] + edges[:-1]) / 2
    assert {c: v for c, v in zip(centres, values, strict=True) if v > floor} == {2: 1 / 8, 3: 6 / 8, 12: 1 / 8}
    marks = {line.get_label(): line.get_xdata()[0] for line in axes.get_lines()}
    assert marks == {"mean": 4.0, "n − 1 = 3": 3}


def test_every_staleness_falls_into_a_bar_when_bars_are_wide(tmp_path):
    run = Run(write_trace(tmp_path / "a.h5", {"steps": {"t_s": np.arange(1000), "staleness": np.arange(1000)}}))
    (axes,) = compose("staleness", [run]).axes
    values, edges, _ = axes.patches[0].get_data()
    assert values.sum() == pytest.approx(1.0)
    assert len(values) <= 61
    assert set(np.diff(edges)) == {17.0}


def test_a_timeline_knows_every_kind_of_event():
    shown = [kind for _, kinds, _, _ in BARS for kind in kinds]
    assert sorted(shown) == sorted(schema.KIND)


@pytest.mark.parametrize("algorithm", ["ad_psgd", "d_psgd"])
def test_a_timeline_shows_twelve_usual_steps_or_one_whole_slow_one(tmp_path, algorithm):
    usual = Run(simulate(tmp_path / "a.h5", algorithm))  # steps of 10 to 13 ms
    slow = Run(simulate(tmp_path / "b.h5", algorithm, stragglers="fixed:rank=1,factor=30"))  # of 300 to 330
    (axes,) = compose("timeline", [usual]).axes
    assert 9 <= len(bars(axes)["computes", 0]) <= 14
    panels = compose("timeline", [usual, slow]).axes
    for axes in panels:  # one window, so that the panels compare
        begin, length = axes.get_xlim()
        assert begin == 0
        assert 320 < length < 400
        assert axes.get_ylim()[0] > axes.get_ylim()[1]  # rank 0 on top
        spans = [span for spans in bars(axes).values() for span in spans]
        assert min(low for low, _ in spans) >= 0
        assert max(high for _, high in spans) <= length + 1e-9
    shown = bars(panels[1])
    assert {rank for label, rank in shown if label == "delayed by injection"} == {1}
    longest = max(high - low for low, high in shown["delayed by injection", 1])
    assert np.isclose(longest, 1e3 * slow.column("steps", "injected_s")).any()
    assert len(bars(panels[0])["computes", 0]) > 20


def test_a_timeline_has_a_panel_for_each_curve_in_the_order_of_all_figures(tmp_path):
    """Whatever the order of the files; of repetitions the first, and no page of twenty panels."""
    runs = [
        Run(simulate(tmp_path / f"{seed}{algorithm}.h5", algorithm, seed=seed, stragglers=stragglers))
        for seed in (2, 0, 1)
        for algorithm in ("ad_psgd", "allreduce_sgd")
        for stragglers in (SLOW, "none")
    ]
    figure = compose("timeline", runs)
    titles = [" ".join(axes.get_title(loc="left").split()).partition(", from")[0] for axes in figure.axes]
    assert titles == [
        "AllReduce-SGD, no stragglers",
        "AllReduce-SGD, rank 1 slowed 10×",
        "AD-PSGD, no stragglers",
        "AD-PSGD, rank 1 slowed 10×",
    ]
    assert "the first of up to 3 runs each" in figure.get_suptitle().replace("\u00a0", " ")
    first = bars(compose("timeline", [run for run in runs if run.attrs["seed"] == 0]).axes[0])
    assert bars(figure.axes[0]) == first


def test_a_timeline_places_events_where_they_happened(tmp_path):
    steps = {"rank": [0, 1], "t_s": [1.0, 1.0], "compute_s": [0.5, 0.75], "injected_s": [0.0, 0.0]}
    kinds = [schema.KIND[name] for name in ("compute", "compute", "push", "allreduce")]
    events = {"rank": [0, 1, 2, 0], "kind": kinds, "t_start_s": [0.0, 0.0, 0.25, 0.5], "t_end_s": [0.5, 0.75, 1, 1]}
    (axes,) = compose(
        "timeline", [Run(write_trace(tmp_path / "a.h5", {"steps": steps, "events": events}, n_workers=2))]
    ).axes
    scale = 1.0 if "(s)" in axes.get_xlabel() else 1e3
    found = {
        (label, rank, round(low / scale, 6), round(high / scale, 6))
        for (label, rank), spans in bars(axes).items()
        for low, high in spans
    }
    communicates = "communicates, blocked time included"
    assert found == {
        ("computes", 0, 0.0, 0.5),
        ("computes", 1, 0.0, 0.75),
        (communicates, 0, 0.5, 1.0),
        (communicates, 2, 0.25, 1.0),
    }
    assert axes.yaxis.get_major_formatter()(2, 0) == "server 2"


SHARED = "shared:rate=1gbit,share=0.1,period=0.8,fraction=0.5"
SLOW_RATE, FULL_RATE = 12.5e6, 125e6


def changes(path, *rows):
    """The columns of /links in a trace: rank, time and rate of each change."""
    rank, t_s, bytes_per_s = zip(*rows, strict=True)
    with h5py.File(path, "a") as file:
        scale = file.create_dataset("links/row", data=np.arange(len(rows)))
        scale.make_scale("row")
        for name, values in (("rank", rank), ("t_s", t_s), ("bytes_per_s", bytes_per_s)):
            about = schema.GROUPS["links"][name]
            data = file.create_dataset(f"links/{name}", data=np.asarray(values, about.dtype))
            data.attrs.update({"units": about.units, "long_name": about.long_name})
            data.dims[0].attach_scale(scale)
    return Run(path)


def test_a_timeline_shows_when_a_ranks_link_is_slow(tmp_path):
    """From the start, for a while, to the end; and one that is told twice that it is slow."""
    steps = {"rank": [0, 1], "t_s": [1.0, 1.0], "compute_s": [0.5, 0.75], "injected_s": [0.0, 0.0]}
    events = {"rank": [0, 1, 2, 3], "kind": 4 * [0], "t_start_s": 4 * [0.0], "t_end_s": [0.5, 0.75, 1, 1]}
    path = write_trace(tmp_path / "a.h5", {"steps": steps, "events": events}, links=SHARED)
    run = changes(
        path,
        (3, 0.0, SLOW_RATE),
        (1, 0.25, SLOW_RATE),
        (3, 0.25, FULL_RATE),
        (1, 0.5, SLOW_RATE),
        (2, 0.5, FULL_RATE),
        (1, 0.625, FULL_RATE),
        (0, 0.875, SLOW_RATE),
    )
    (axes,) = compose("timeline", [run]).axes
    begin, end = axes.get_xlim()
    scale = 1.0 if "(s)" in axes.get_xlabel() else 1e3
    slow = {rank: spans for (label, rank), spans in bars(axes).items() if label == "its link is slow"}
    assert slow.keys() == {0, 1, 3}
    np.testing.assert_allclose(slow[0], [(0.875 * scale, end)])
    np.testing.assert_allclose(slow[1], [(0.25 * scale, 0.5 * scale), (0.5 * scale, 0.625 * scale)])
    np.testing.assert_allclose(slow[3], [(begin, 0.25 * scale)])


@pytest.mark.parametrize("algorithm", ["ad_psgd", "d_psgd"])
def test_a_timeline_is_about_a_change_of_links_where_there_is_one(tmp_path, algorithm):
    """Of two the one that is nearer to the middle of the run, though it is far from it; a start is no change."""
    path = simulate(tmp_path / "a.h5", algorithm, links=SHARED)  # of more than 1.2 s
    start = [(rank, 0.0, FULL_RATE) for rank in range(2)] + [(2, 0.5, FULL_RATE)]
    run = changes(path, *start[:2], (0, 0.05, SLOW_RATE), (1, 0.25, SLOW_RATE), start[2])
    figure = compose("timeline", [run])
    assert_legible(figure)
    (axes,) = figure.axes
    shown = bars(axes)
    length = axes.get_xlim()[1]
    (low, high) = shown["its link is slow", 1][0]
    assert 0 < low < high == pytest.approx(length)
    assert shown["its link is slow", 0] == [(0, pytest.approx(length))]
    assert "its link is slow" in [text.get_text() for text in figure.legends[0].get_texts()]
