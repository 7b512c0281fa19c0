"""The figures and the reader, over made traces whose numbers are known."""

import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from matplotlib.text import Text

from outpace.benchmarks import drawing, figures, reading, schema
from outpace.benchmarks.figures import FIGURES, compose, draw
from outpace.benchmarks.reading import Run
from outpace.comm.spec import UserError

SLOW = "fixed:rank=1,factor=10"


def write_trace(
    path: Path, groups: dict[str, dict[str, Any]], config: dict[str, Any] | None = None, **attrs: Any
) -> Path:
    """A trace after benchmarks/schema.py with these columns; further attributes replace the usual ones."""
    usual = {"schema": schema.SCHEMA, "schema_version": schema.VERSION, "status": "complete", "seed": 0}
    usual |= {"algorithm": "ad_psgd", "problem": "digits:hidden=64", "split": "iid", "stragglers": "none"}
    usual |= {"n_workers": 4, "n_total": 1000, "claim_class": "emulated"}
    usual["config"] = json.dumps({"step_size": 0.1, "batch_size": 32, "compute_time": 0.01} | (config or {}))
    with h5py.File(path, "w") as file:
        file.attrs.update(usual | attrs)
        for name, columns in groups.items():
            group = file.create_group(name)
            rows = len(next(iter(columns.values())))
            scale = group.create_dataset("row", data=np.arange(rows))
            scale.make_scale("row")
            for column, values in columns.items():
                about = (schema.GROUPS.get(name) or schema.TABLES[name].columns)[column]
                data = group.create_dataset(column, data=np.asarray(values, about.dtype))
                data.attrs.update({"units": about.units, "long_name": about.long_name})
                data.dims[0].attach_scale(scale)
    return path


def simulate(
    path: Path,
    algorithm: str = "ad_psgd",
    n: int = 4,
    stragglers: str = "none",
    seed: int = 0,
    steps: int = 120,
    **more: Any,
) -> Path:
    """A trace as a run of 10 ms gradients would leave it: `ad_psgd` and `a_psgd` wait for nobody, others for all."""
    rng = np.random.default_rng([1, seed, n, *algorithm.encode()])
    alone = algorithm in ("ad_psgd", "a_psgd")
    base = 0.01 * (1 + rng.gamma(2.0, 0.02, (n, steps)))
    injected = np.zeros((n, steps))
    if stragglers.startswith("fixed"):
        rank, factor = re.findall(r"=(\d+)", stragglers)
        injected[int(rank)] = (int(factor) - 1) * base[int(rank)]
    busy, exchange = base + injected, 0.0015 * (1 + rng.gamma(2.0, 0.1, (n, steps)))
    if alone:
        end = np.cumsum(busy + 1e-4, axis=1)
        start, done = end - busy, np.minimum(end + exchange, end[:, -1:])
        kept = end <= end[:, -1].min()
        begin = end
    else:
        barrier = np.cumsum(busy.max(axis=0) + exchange.max(axis=0))
        start = np.concatenate([[0.0], barrier[:-1]]) * np.ones((n, 1))
        begin, done = start + busy, barrier * np.ones((n, 1))
        end, kept = done, np.ones((n, steps), bool)
    rank, step = np.nonzero(kept)
    order = np.argsort(end[kept], kind="stable")
    rank, step = rank[order], step[order]
    at = (rank, step)
    ends = np.sort(end[at])
    stale = np.searchsorted(ends, end[at], "left") - np.searchsorted(ends, start[at], "right")
    zeros = np.zeros(len(rank))
    columns = {
        "rank": rank,
        "step": step,
        "t_s": end[at],
        "compute_s": base[at],
        "injected_s": injected[at],
        "wait_s": zeros if alone else (end - start - busy)[at],
        "staleness": stale if alone else zeros,
        "local_writes": zeros,
        "samples": 32 + zeros,
    }
    kinds = [
        ("compute", start, start + base),
        ("inject", start + base, start + busy),
        ("exchange" if algorithm.endswith("d_psgd") else "allreduce", begin, done),
    ]
    events: dict[str, Any] = {column: [] for column in schema.GROUPS["events"]}
    for kind, low, high in kinds:
        some = (high - low)[at] > 0
        for column, values in zip(
            events, [rank, zeros + schema.KIND[kind], low[at], high[at], step, zeros - 1, zeros], strict=True
        ):
            events[column].append(values[some])
    t_s = np.linspace(0, ends[-1], 40)
    samples = 32 * np.searchsorted(ends, t_s, "right")
    loss = (0.08 + 2.2 / (1 + samples / 2500) ** 2) * np.exp(rng.normal(0, 0.06, len(t_s)))
    spread = (
        (0 if algorithm == "allreduce_sgd" else 0.3)
        * (samples > 0)
        * np.exp(-samples / 20000 + rng.normal(0, 0.2, len(t_s)))
    )
    evaluations = {
        "t_s": t_s,
        "samples": samples,
        "epoch": samples / 1000,
        "loss": loss,
        "gradient_norm": loss,
        "consensus": spread,
        "accuracy": 1 - loss / 3,
        "suboptimality": loss - 0.01,
        "gradients": samples / 1000,
        "rounds": np.arange(len(t_s)),
    }
    snr = np.exp(-t_s / t_s[-1])
    geometry = {"t_s": t_s, "epoch": evaluations["epoch"], "snr_above": snr / 3, "live": np.ones(len(t_s))}
    geometry |= {
        f"{kind}_density": value * snr for kind, value in (("gradient", 0.4), ("noise", 0.5), ("curvature", 0.3))
    }
    geometry |= {f"snr_p{q}": q / 50 * snr for q in (5, 25, 50, 75, 95)}
    groups = {
        "evaluations": evaluations,
        "geometry": geometry,
        "workers": {"data_share": np.full(n, 1 / n), "update_share": np.bincount(rank, minlength=n) / len(rank)},
        "steps": columns,
        "events": {k: np.concatenate(v) for k, v in events.items()},
        "traffic": {"nbytes": 40_000 * (1 - np.eye(n)), "messages": 10 * (1 - np.eye(n))},
    }
    return write_trace(path, groups, algorithm=algorithm, n_workers=n, stragglers=stragglers, seed=seed, **more)


def losses(path, loss, t_s=None, **more):
    """A trace with these evaluations only."""
    t_s = np.arange(len(loss), dtype=float) if t_s is None else t_s
    columns = {"t_s": t_s, "epoch": 2 * np.asarray(t_s), "loss": loss, "consensus": loss}
    return Run(write_trace(path, {"evaluations": columns}, **more))


def rates(path, samples_per_s, **more):
    """A trace whose two gradients make this rate; n_total is 1000."""
    end = 1000 / samples_per_s
    return Run(write_trace(path, {"steps": {"t_s": [end, end / 2], "samples": [500, 500]}}, **more))


def lines(axes, width=1.4):
    """The labelled curves of this width, by label."""
    found = {line.get_label(): line for line in axes.get_lines() if line.get_linewidth() == width}
    return {label: line for label, line in found.items() if not label.startswith("_")}


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """Three programs with and without a slow rank, on 4 workers, and without on 2: what all figures can be drawn of."""
    folder = tmp_path_factory.mktemp("traces")
    return [
        simulate(folder / f"{algorithm}-{n}-{level}.h5", algorithm, n, stragglers)
        for algorithm in ("allreduce_sgd", "d_psgd", "ad_psgd")
        for n, level, stragglers in ((4, "equal", "none"), (4, "slow", SLOW), (2, "equal", "none"))
    ]


WANTED = {"speed-up": "equal", "steps-rate": "equal", "splits": "4-equal"}


def of_figure(name, traces):
    return [path for path in traces if WANTED.get(name, "-4-") in path.name]


# The reader.


def test_no_word_of_a_caption_is_broken(tmp_path: Path) -> None:
    """A fact is kept on one line where it fits one, else broken between its words."""
    runs = [Run(simulate(tmp_path / "run.h5"))]
    note = "medians over the coordinates, bands of 50 and 90 % of them"
    lines = drawing.facts_of(runs, note, drawing.WIDTH).replace(drawing.NO_BREAK, " ").splitlines()
    assert note in " ".join(lines)
    assert max(map(len, lines)) <= drawing.LINE
    assert any("emulated: compute slept to 10 ms per 32 samples" in line for line in lines)


def test_attributes_are_plain_and_columns_are_arrays(tmp_path):
    run = losses(tmp_path / "a.h5", [2.0, 1.0], n_samples=np.array([3, 4]))
    assert type(run.attrs["n_workers"]) is int
    assert run.attrs["n_samples"] == [3, 4]
    assert run.config["step_size"] == 0.1
    np.testing.assert_array_equal(run.column("evaluations", "loss"), [2.0, 1.0])
    assert run.has("evaluations", "loss")
    assert not run.has("evaluations", "accuracy")
    assert not run.has("steps", "rank")


@pytest.mark.parametrize(
    ("algorithm", "stragglers", "label"),
    [
        ("ad_psgd", "none", "AD-PSGD, no stragglers"),
        ("allreduce_sgd", "fixed:rank=3,factor=10", "AllReduce-SGD, rank 3 slowed 10×"),
        ("d_psgd", "fixed:rank=0+3,factor=2.5", "D-PSGD, ranks 0, 3 slowed 2.5×"),
        ("d2", "random:p=0.1,factor=5", "D², random:p=0.1,factor=5"),
        ("my_sgd", "none", "my_sgd, no stragglers"),
    ],
)
def test_labels_name_the_program_and_the_injected_delays(tmp_path, algorithm, stragglers, label):
    run = losses(tmp_path / "a.h5", [1.0], algorithm=algorithm, stragglers=stragglers)
    assert run.label == label
    assert run.label.startswith(run.name)


@pytest.mark.parametrize(
    ("algorithm", "config", "name"),
    [
        ("katyusha_x", {"variant": "s", "sampling": "iid"}, "Katyusha Xˢ"),
        ("katyusha_x", {"variant": "w", "sampling": "stratified"}, "Katyusha Xʷ, stratified"),
        ("svrg", {"sampling": "stratified"}, "SVRG, stratified"),
        ("sign_sgd", {"variant": "signum"}, "Signum"),
        ("sign_sgd", {"variant": "signsgd"}, "signSGD"),
    ],
)
def test_names_tell_variants_apart(tmp_path, algorithm, config, name):
    assert losses(tmp_path / "a.h5", [1.0], algorithm=algorithm, config=config).name == name


def test_effort_and_rounds(tmp_path):
    """The first evaluation at 1 % of the first suboptimality; never is infinite. Three steps of each of 4 workers."""
    evaluations = {"suboptimality": [2.0, 0.5, 0.02, 0.03], "gradients": [0, 3, 7, 8], "rounds": [0, 10, 20, 30]}
    groups = {"evaluations": evaluations, "steps": {"step": np.zeros(12)}}
    run = Run(write_trace(tmp_path / "a.h5", groups))
    assert (run.effort_to(0.01), run.effort_to(0.01, "rounds"), run.effort_to(1e-3)) == (7, 20, float("inf"))
    assert run.rounds_per_step() == 10


def test_batches_shows_rounds_and_passes_by_batch_size(tmp_path):
    runs = []
    for name, config in (("svrg", {}), ("katyusha_x", {"variant": "s"}), ("katyusha_x", {"variant": "w"})):
        for b, passes in ((1, 30), (10, 40)):
            evaluations = {"suboptimality": [1.0, 1e-9], "gradients": [0, passes], "rounds": [0, 4 * (1 + 1000 // b)]}
            path = tmp_path / f"{name}-{config.get('variant')}-{b}.h5"
            groups = {"evaluations": evaluations, "steps": {"step": np.zeros(16)}}
            flags = {"step_size": None, "batch_size": b, "compute_time": 0, **config}
            runs.append(Run(write_trace(path, groups, flags, algorithm=name)))
    rounds, passes = compose("batches", runs).axes
    assert set(lines(rounds)) == {"SVRG", "Katyusha Xˢ", "Katyusha Xʷ"}
    np.testing.assert_array_equal(lines(rounds)["SVRG"].get_xydata(), [[1, 1001], [10, 101]])
    to_target = next(line for line in passes.get_lines() if len(line.get_xdata()) == 2)
    np.testing.assert_array_equal(to_target.get_ydata(), [30, 40])


def test_time_to_loss_is_the_first_crossing_between_two_evaluations(tmp_path):
    run = losses(tmp_path / "a.h5", [2.0, 1.0, 1.5, 0.5], t_s=[0.0, 1.0, 2.0, 4.0])
    assert run.time_to_loss(1.25) == pytest.approx(0.75)  # not the second crossing, not the evaluation at 1.0
    assert run.time_to_loss(0.75) == pytest.approx(3.5)
    assert run.time_to_loss(2.5) == 0.0
    assert run.time_to_loss(0.4) is None
    wild = losses(tmp_path / "b.h5", [2.0, np.nan, 0.5], t_s=[0.0, 1.0, 2.0])
    assert wild.time_to_loss(1.0) == 2.0


def test_final_values_are_the_last_ones(tmp_path):
    run = losses(tmp_path / "a.h5", [2.0, 0.5, 1.0])
    assert run.final_loss() == 1.0
    assert run.final_accuracy() is None
    assert Run(write_trace(tmp_path / "b.h5", {"evaluations": {"accuracy": [0.1, 0.9, 0.8]}})).final_accuracy() == 0.8


def test_rate_is_all_samples_over_the_last_end(tmp_path):
    run = rates(tmp_path / "a.h5", 50)  # the later end in the first row
    assert run.samples_per_s() == pytest.approx(50.0)
    assert run.epoch_time() == pytest.approx(20.0)
    with pytest.raises(UserError, match=r"b\.h5.*no step"):
        Run(write_trace(tmp_path / "b.h5", {"steps": {"t_s": [], "samples": []}})).samples_per_s()


def _truncated(path):
    write_trace(path, {"evaluations": {"loss": np.zeros(1000)}})
    path.write_bytes(path.read_bytes()[:-4000])


def _garbled(path):
    with h5py.File(write_trace(path, {}), "r+") as file:
        file.attrs["config"] = "{"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_text("t_s,loss"), "cannot be read as HDF5"),
        (_truncated, "cannot be read as HDF5"),
        (lambda path: write_trace(path, {}, schema="other"), "not a trace"),
        (lambda path: write_trace(path, {}, schema_version=99), "version 99; this release reads 1"),
        (lambda path: write_trace(path, {}, n_workers="four"), "attribute n_workers"),
        (_garbled, "attribute config is not JSON"),
    ],
)
def test_a_file_that_is_no_trace_is_refused_in_one_line(tmp_path, damage, reason):
    path = tmp_path / "bad.h5"
    damage(path)
    with pytest.raises(UserError, match=reason) as error:
        Run(path)
    assert "bad.h5" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.h5: no column t_s in /steps"):
        losses(tmp_path / "a.h5", [1.0]).column("steps", "t_s")


# What holds for all figures.


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


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_written_legible_and_inside_its_page(tmp_path, traces, name):
    chosen = of_figure(name, traces)
    out = tmp_path / "out.png"
    draw(name, chosen, out)
    assert out.read_bytes()[:4] == b"\x89PNG"
    assert out.stat().st_size > 5000
    assert os.listdir(tmp_path) == ["out.png"]  # no temporary file stays
    figure = compose(name, [Run(path) for path in chosen])
    assert_legible(figure)
    for axes in figure.axes:
        assert axes.get_ylabel() or not axes.get_subplotspec().is_first_col()
    assert figure.axes[-1].get_xlabel()


def test_long_specs_are_wrapped(tmp_path):
    problem = "quadratic:dim=1000000,condition=10,sigma=0.1,zeta=10,samples=1024,another=1,and_another=2"
    stragglers = "random:p=0.1,factor=5,another=123456,and_another=123456,a_last_one=123456"
    steps = {"t_s": [1.0], "staleness": [0], "rank": [0], "compute_s": [1.0], "injected_s": [0.0]}
    events = {"rank": [0], "kind": [0], "t_start_s": [0.0], "t_end_s": [1.0]}
    evaluations = {"t_s": [0.0, 1.0], "loss": [2.0, 1.0]}
    path = tmp_path / "a.h5"
    groups = {"steps": steps, "events": events, "evaluations": evaluations}
    run = Run(write_trace(path, groups, problem=problem, stragglers=stragglers, status="partial"))
    for name in ("loss-time", "staleness", "timeline"):
        assert_legible(compose(name, [run]))


@pytest.mark.parametrize(("suffix", "start"), [(".pdf", b"%PDF"), (".svg", b"<?xml"), (".png", b"\x89PNG")])
def test_the_suffix_gives_the_format(tmp_path, traces, suffix, start):
    out = tmp_path / f"out{suffix}"
    draw("loss-time", traces[:1], out)
    assert out.read_bytes().startswith(start)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_states_problem_split_workers_class_and_slept_time(traces, name):
    stated = compose(name, [Run(path) for path in of_figure(name, traces)]).get_suptitle().replace("\u00a0", " ")
    workers = "2 and 4 workers" if WANTED.get(name) == "equal" else "4 workers"
    for fact in ("digits:hidden=64", "split iid", workers, "emulated", "10 ms per 32 samples"):
        assert fact in stated.replace("\n", " ")


@pytest.mark.parametrize(
    ("name", "out", "reason"),
    [
        ("loss", "a.png", r"unknown figure 'loss'; allowed: loss-time, .*consensus"),
        ("loss-time", "a.jpg", r"unknown format '\.jpg'; allowed: \.pdf, \.png, \.svg"),
        ("loss-time", "a", r"unknown format ''"),
        ("loss-time", "missing/a.png", "no folder"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_before_anything_is_read(tmp_path, name, out, reason):
    with pytest.raises(UserError, match=reason):
        draw(name, [tmp_path / "absent.h5"], tmp_path / out)
    assert not list(tmp_path.iterdir())


def test_a_figure_needs_a_trace(tmp_path):
    with pytest.raises(UserError, match="no trace given"):
        draw("loss-time", [], tmp_path / "a.png")


def test_a_refusal_leaves_the_old_figure(tmp_path, traces):
    out = tmp_path / "a.png"
    out.write_text("old")
    with pytest.raises(UserError):
        draw("loss-time", [traces[0], tmp_path / "absent.h5"], out)
    assert out.read_text() == "old"


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize(
    "other",
    [
        {"claim_class": "measured"},
        {"problem": "digits:hidden=0"},
        {"split": "labels:classes=2"},
        {"config": {"compute_time": 0.02}},
        {"n_workers": 2},
    ],
    ids=lambda other: next(iter(other)),
)
def test_runs_of_different_worlds_are_refused_by_file_name(tmp_path, name, other):
    runs = [losses(tmp_path / "a.h5", [1.0]), losses(tmp_path / "b.h5", [1.0], algorithm="d_psgd", **other)]
    if next(iter(other)) in figures.ABOUT.get(name, ()):
        return  # what that figure is about
    with pytest.raises(UserError, match=r"a\.h5 and .*b\.h5 differ in") as error:
        compose(name, runs)
    assert "\n" not in str(error.value)


def test_equal_compute_time_per_sample_is_one_world(tmp_path):
    half = {"compute_time": 0.005, "batch_size": 16}
    compose(
        "loss-time", [losses(tmp_path / "a.h5", [1.0]), losses(tmp_path / "b.h5", [1.0], config=half, algorithm="d2")]
    )


def test_programs_and_stragglers_can_be_told_apart_everywhere(tmp_path, traces):
    assert drawing.PROGRAMS.keys() == reading.NAMES.keys()
    everything = *drawing.PROGRAMS.values(), *drawing.VARIANTS.values()
    for looks in zip(*everything, strict=True):
        assert len(set(looks)) == len(everything)  # each colour once, each marker once
    both = lines(compose("loss-time", [Run(path) for path in traces if "-4-" in path.name]).axes[0])
    alone = lines(compose("loss-time", [Run(traces[-2])]).axes[0])["AD-PSGD, rank 1 slowed 10×"]
    together, equal = both["AD-PSGD, rank 1 slowed 10×"], both["AD-PSGD, no stragglers"]
    assert alone.get_color() == together.get_color() == equal.get_color()
    assert together.get_linestyle() != equal.get_linestyle() == "-"
    assert alone.get_linestyle() == together.get_linestyle()
    assert both["D-PSGD, no stragglers"].get_color() != equal.get_color()
    assert both["D-PSGD, no stragglers"].get_marker() != equal.get_marker()


def test_programs_of_the_user_can_be_drawn(tmp_path):
    runs = [losses(tmp_path / f"{name}.h5", [2.0, 1.0], algorithm=name) for name in ("one", "two", "ad_psgd")]
    drawn = lines(compose("loss-time", runs).axes[0])
    assert len({(line.get_color(), line.get_marker()) for line in drawn.values()}) == 3


# Repetitions.


def test_a_few_repetitions_are_drawn_thin_with_their_median(tmp_path):
    runs = [losses(tmp_path / f"{seed}.h5", [4.0, value], seed=seed) for seed, value in enumerate((1.0, 2.0, 3.9))]
    figure = compose("loss-time", runs)
    (axes,) = figure.axes
    (median,) = lines(axes).values()
    np.testing.assert_allclose(median.get_ydata(), [4.0, 2.0])  # the mean would be 2.3
    assert [line.get_ydata()[-1] for line in axes.get_lines() if line.get_linewidth() == 0.5] == [1.0, 2.0, 3.9]
    assert "medians of 3 runs" in figure.get_suptitle().replace("\u00a0", " ")
    assert len(figure.legends[0].get_texts()) == 1


def test_repetitions_meet_on_a_common_grid_as_far_as_all_reach(tmp_path):
    runs = [
        losses(tmp_path / "a.h5", [4.0, 2.0, 1.0], t_s=[0.0, 1.0, 3.0], seed=1),
        losses(tmp_path / "b.h5", [4.0, 0.0], t_s=[0.0, 2.0], seed=2),
    ]
    (median,) = lines(compose("loss-time", runs).axes[0]).values()
    np.testing.assert_allclose(median.get_xdata(), [0.0, 1.0, 2.0])
    np.testing.assert_allclose(median.get_ydata(), [4.0, 2.0, 0.75])


def test_ten_repetitions_are_drawn_as_the_median_with_the_2nd_and_9th_value(tmp_path):
    runs = [losses(tmp_path / f"{seed}.h5", [seed, seed], seed=seed) for seed in range(1, 11)]
    (axes,) = compose("loss-time", runs).axes
    (median,) = lines(axes).values()
    np.testing.assert_allclose(median.get_ydata(), 5.5)
    (band,) = axes.collections
    assert set(band.get_paths()[0].vertices[:, 1]) == {2.0, 9.0}
    assert len(axes.get_lines()) == 1


def test_a_diverged_repetition_counts_as_worse_than_the_median_not_as_absent(tmp_path):
    runs = [
        losses(tmp_path / "a.h5", [8.0, 1.0, 1.0], seed=1),
        losses(tmp_path / "b.h5", [8.0, 3.0, 3.0], seed=2),
        losses(tmp_path / "c.h5", [8.0, 2.0], seed=3, status="diverged"),
    ]
    drawn = lines(compose("loss-time", runs).axes[0])
    (median,) = drawn.values()
    np.testing.assert_allclose(median.get_ydata(), [8.0, 2.0, 3.0])
    assert list(drawn) == ["AD-PSGD, no stragglers, 1 of 3 diverged"]


def test_runs_that_differ_in_a_setting_are_no_repetitions(tmp_path):
    first = losses(tmp_path / "a.h5", [2.0, 1.0])
    longer = {"epochs": 40, "out": "b.h5", "evaluations": 9, "seed": 1, "time_budget": 3.0, "overwrite": True}
    compose("loss-time", [first, losses(tmp_path / "b.h5", [2.0, 1.0], config=longer)])
    with pytest.raises(UserError, match=r"a\.h5 and .*c\.h5 differ in step_size \(0\.1, 0\.2\)"):
        compose("loss-time", [first, losses(tmp_path / "c.h5", [2.0, 1.0], config={"step_size": 0.2})])


def test_a_file_given_twice_is_one_run(tmp_path, traces):
    draw("loss-time", [traces[0], str(traces[0])], tmp_path / "a.svg")
    assert "medians" not in (tmp_path / "a.svg").read_text()


# The figures one by one.


def test_loss_is_drawn_as_recorded_against_time_and_epochs(tmp_path):
    run = losses(tmp_path / "a.h5", [2.0, 1.0, 0.5], t_s=[0.0, 1.0, 3.0])
    for name, xs in (("loss-time", [0.0, 1.0, 3.0]), ("loss-epochs", [0.0, 2.0, 6.0])):
        (line,) = lines(compose(name, [run]).axes[0]).values()
        np.testing.assert_array_equal(line.get_xydata(), np.stack([xs, [2.0, 1.0, 0.5]], 1))


def test_a_run_that_explodes_does_not_flatten_the_others(tmp_path):
    good = losses(tmp_path / "a.h5", [2.0, 1.0, 0.5])
    bad = losses(tmp_path / "b.h5", [2.0, 1e30, np.inf], algorithm="d_psgd", status="diverged")
    low, high = compose("loss-time", [good, bad]).axes[0].get_ylim()
    assert 0.1 < low < 0.5
    assert 2.0 < high < 50


def test_a_negative_loss_is_drawn(tmp_path):
    (axes,) = compose("loss-time", [losses(tmp_path / "a.h5", [2.0, 0.1, -20.0])]).axes
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] < -20


def test_runs_of_very_different_length_share_a_logarithmic_time_axis_with_its_zero(tmp_path):
    long = losses(tmp_path / "a.h5", [2.0, 1.0, 0.5], t_s=[0.0, 10.0, 100.0])
    short = losses(tmp_path / "b.h5", [2.0, 1.0, 0.5], t_s=[0.0, 0.5, 1.0], algorithm="d_psgd")
    (axes,) = compose("loss-time", [long, short]).axes
    assert axes.get_xscale() == "symlog"
    assert axes.get_xlim()[0] == 0
    assert "logarithmic from 0.5 on" in axes.get_xlabel()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "10"]
    assert compose("loss-time", [long]).axes[0].get_xscale() == "linear"


def test_consensus_is_logarithmic_and_leaves_out_exact_zeros(tmp_path):
    gossip = losses(tmp_path / "a.h5", [0.0, 0.5, 0.25], algorithm="d_psgd")
    exact = losses(tmp_path / "b.h5", [0.0, 0.0, 0.0], algorithm="allreduce_sgd")
    (axes,) = compose("consensus", [gossip, exact]).axes
    assert axes.get_yscale() == "log"
    drawn = lines(axes)
    np.testing.assert_array_equal(drawn["D-PSGD, no stragglers"].get_xydata(), [[1.0, 0.5], [2.0, 0.25]])
    assert not len(drawn["AllReduce-SGD, no stragglers, exactly\u00a00"].get_xydata())
    compose("consensus", [exact])


def test_epoch_times_are_over_the_programs_own_and_beside_the_ideal_laws(tmp_path):
    n_total = 1000
    seconds = {
        ("ad_psgd", "none"): 4.0,
        ("ad_psgd", "fixed:rank=1,factor=2"): 4.4,
        ("ad_psgd", SLOW): 5.0,
        ("d_psgd", "none"): 8.0,
        ("d_psgd", "fixed:rank=3,factor=10"): 64.0,
    }
    runs = [
        rates(tmp_path / f"{k}.h5", n_total / epoch_s, algorithm=algorithm, stragglers=stragglers)
        for k, ((algorithm, stragglers), epoch_s) in enumerate(seconds.items())
    ]
    absolute, relative = compose("epoch-time", runs).axes
    drawn = lines(absolute)
    np.testing.assert_allclose(drawn["AD-PSGD"].get_xydata(), [[1, 4.0], [2, 4.4], [10, 5.0]], rtol=1e-2)
    np.testing.assert_allclose(drawn["D-PSGD"].get_xydata(), [[1, 8.0], [10, 64.0]], rtol=1e-2)
    ratios = [line.get_ydata() for line in relative.get_lines() if line.get_linewidth() == 1.4]
    np.testing.assert_allclose(np.concatenate(ratios), [1, 8, 1, 1.1, 1.25], rtol=1e-2)
    laws = lines(relative, 0.9)
    s = np.geomspace(1, 10, 100)
    np.testing.assert_allclose(laws["ideal synchronous: s"].get_xydata(), np.stack([s, s], 1))
    ideal = laws["ideal asynchronous: n/(n − 1 + 1/s)"]
    np.testing.assert_allclose(ideal.get_xydata()[-1], [10, 4 / 3.1])
    assert ideal.is_dashed()
    assert {absolute.get_xscale(), absolute.get_yscale(), relative.get_yscale()} == {"log"}
    assert "injected" in relative.get_xlabel()


def test_two_slow_ranks_have_their_own_law(tmp_path):
    runs = [rates(tmp_path / "a.h5", 90), rates(tmp_path / "b.h5", 50, stragglers="fixed:rank=0+2,factor=4")]
    law = lines(compose("epoch-time", runs).axes[1], 0.9)["ideal asynchronous: n/(n − 2 + 2/s)"]
    np.testing.assert_allclose(law.get_ydata()[-1], 4 / (2 + 2 / 4))


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ([("ad_psgd", SLOW), ("d_psgd", SLOW)], "no run of D-PSGD with --stragglers none"),
        ([("ad_psgd", "random:p=0.1,factor=5")], r"1\.h5: 'random:p=0.1,factor=5' is not one slow-down factor"),
        ([("ad_psgd", SLOW), ("ad_psgd", "fixed:rank=0+1,factor=2")], r"1\.h5 and .*2\.h5 differ in number of slow"),
        ([], "no run is slowed down"),
    ],
)
def test_epoch_time_refuses_what_has_no_one_slow_down(tmp_path, others, reason):
    runs = [rates(tmp_path / "0.h5", 90)]
    for k, (algorithm, stragglers) in enumerate(others, start=1):
        runs.append(rates(tmp_path / f"{k}.h5", 80, algorithm=algorithm, stragglers=stragglers))
    with pytest.raises(UserError, match=reason):
        compose("epoch-time", runs)


def test_epoch_time_refuses_a_homogeneous_run_of_other_settings(tmp_path):
    runs = [rates(tmp_path / "a.h5", 90), rates(tmp_path / "b.h5", 80, config={"topology": "path"}, stragglers=SLOW)]
    with pytest.raises(UserError, match=r"a\.h5 and .*b\.h5 differ in topology"):
        compose("epoch-time", runs)


def test_ratios_of_ten_runs_have_a_bootstrap_interval_about_the_ratio_of_medians(tmp_path):
    rng = np.random.default_rng([1, 0])
    fast, slow = 1000 / rng.normal(10, 0.2, 12), 1000 / rng.normal(30, 0.6, 12)
    runs = [rates(tmp_path / f"a{k}.h5", rate, seed=k) for k, rate in enumerate(fast)]
    runs += [rates(tmp_path / f"b{k}.h5", rate, seed=k, stragglers=SLOW) for k, rate in enumerate(slow)]
    absolute, relative = compose("epoch-time", runs).axes
    ratio = np.median(1 / slow) / np.median(1 / fast)
    for axes, unit in ((absolute, 1000 * np.median(1 / fast)), (relative, 1.0)):
        ends = [collection.get_segments()[0][:, 1] for collection in axes.collections]
        low, high = ends[-1]  # at factor 10
        assert 2.8 * unit < low < ratio * unit < high < 3.2 * unit
    assert len(absolute.collections) == 2
    assert len(relative.collections) == 1  # the homogeneous runs are 1 by definition
    _, relative = compose("epoch-time", runs[:3] + runs[12:]).axes
    assert not relative.collections  # three runs to compare with are too few for an interval


def test_points_are_medians(tmp_path):
    runs = [
        rates(tmp_path / f"{n}{k}.h5", n * rate, n_workers=n, seed=k)
        for n in (1, 2)
        for k, rate in enumerate((1, 2, 9))
    ]
    (axes,) = compose("speed-up", runs).axes
    (median,) = lines(axes).values()
    np.testing.assert_allclose(median.get_ydata(), [1, 2])
    each = [line.get_ydata().tolist() for line in axes.get_lines() if line.get_markersize() == 3]
    assert each == [[0.5, 1, 4.5], [1, 2, 9]]


def test_speed_up_is_over_the_programs_own_smallest_number_of_workers(tmp_path):
    measured = {("d_psgd", 1): 100, ("d_psgd", 2): 190, ("d_psgd", 8): 600, ("ad_psgd", 2): 250, ("ad_psgd", 8): 1000}
    runs = [
        rates(tmp_path / f"{a}{n}.h5", rate, algorithm=a, n_workers=n) for (a, n), rate in reversed(measured.items())
    ]
    (axes,) = compose("speed-up", runs).axes
    drawn = {label.replace("\u00a0", " "): line.get_xydata().tolist() for label, line in lines(axes).items()}
    assert drawn == {
        "D-PSGD, no stragglers (100/s at n = 1)": [[1, 1], [2, 1.9], [8, 6]],
        "AD-PSGD, no stragglers (250/s at n = 2)": [[2, 1], [8, 4]],
    }
    ideal = [line.get_xydata().tolist() for line in axes.get_lines() if line.get_label().startswith("ideal")]
    assert sorted(ideal) == [[[1, 1], [8, 8]], [[2, 1], [8, 4]]]


def test_no_speed_up_is_claimed_on_shared_cores_or_from_one_number_of_workers(tmp_path):
    worlds = {"shared": ("emulated", 0), "own": ("measured", 0), "slept": ("emulated", 0.01)}
    for name, (claim_class, compute_time) in worlds.items():
        runs = [
            rates(
                tmp_path / f"{name}{n}.h5",
                n,
                config={"compute_time": compute_time},
                n_workers=n,
                claim_class=claim_class,
            )
            for n in (1, 2)
        ]
        if name == "shared":
            with pytest.raises(UserError, match=r"shared1\.h5 shared cores"):
                compose("speed-up", runs)
        else:
            compose("speed-up", runs)
    with pytest.raises(UserError, match="two or more numbers of workers"):
        compose("speed-up", runs[:1])


def test_staleness_shows_shares_mean_and_reference(tmp_path):
    sync = {"steps": {"staleness": 8 * [0]}}
    late = {"steps": {"staleness": [2, 3, 3, 3, 3, 3, 3, 12]}}
    runs = [
        Run(write_trace(tmp_path / "a.h5", late)),
        Run(write_trace(tmp_path / "b.h5", sync, algorithm="d_psgd")),
    ]
    panels = compose("staleness", runs).axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        "D-PSGD, no stragglers: mean 0",
        "AD-PSGD, no stragglers: mean 4",
    ]
    values, edges, floor = panels[1].patches[0].get_data()
    centres = (edges[1:] + edges[:-1]) / 2
    assert {c: v for c, v in zip(centres, values, strict=True) if v > floor} == {2: 1 / 8, 3: 6 / 8, 12: 1 / 8}
    marks = {line.get_label(): line.get_xdata()[0] for line in panels[1].get_lines()}
    assert marks == {"mean": 4.0, "n − 1 = 3": 3}


def test_every_staleness_falls_into_a_bar_when_bars_are_wide(tmp_path):
    run = Run(write_trace(tmp_path / "a.h5", {"steps": {"staleness": np.arange(1000)}}))
    (axes,) = compose("staleness", [run]).axes
    values, edges, _ = axes.patches[0].get_data()
    assert values.sum() == pytest.approx(1.0)
    assert len(values) <= 61
    assert set(np.diff(edges)) == {17.0}


def test_a_timeline_knows_every_kind_of_event():
    shown = [kind for _, kinds, _, _ in figures.BARS for kind in kinds]
    assert sorted(shown) == sorted(schema.KINDS)


def bars(axes):
    """(label, rank) -> [(begin, end)] of the bars in a panel."""
    found = {}
    for collection in axes.collections:
        corners = [(path.vertices.min(axis=0), path.vertices.max(axis=0)) for path in collection.get_paths()]
        rank = round((corners[0][0][1] + corners[0][1][1]) / 2)
        found[collection.get_label(), rank] = [(low[0], high[0]) for low, high in corners]
    return found


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


def test_a_timeline_places_events_where_they_happened(tmp_path):
    steps = {"rank": [0, 1], "t_s": [1.0, 1.0], "compute_s": [0.5, 0.75], "injected_s": [0.0, 0.0]}
    kinds = [schema.KIND[name] for name in ("compute", "allreduce", "compute", "push")]
    events = {"rank": [0, 0, 1, 2], "kind": kinds, "t_start_s": [0.0, 0.5, 0.0, 0.25], "t_end_s": [0.5, 1, 0.75, 1]}
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


def test_steps_rate_shows_gradients_and_the_busiest_rank(tmp_path):
    """Two workers and a server: 30 gradients in 3 s; the server gets 8 + 4 MB and sends 6 + 5."""
    nbytes = 1e6 * np.array([[0, 0, 8], [0, 0, 4], [6, 5, 0]])

    def run(name, n):
        steps = {"step": np.arange(30), "t_s": np.linspace(0.1, 3.0, 30), "samples": np.full(30, 32)}
        groups = {"steps": steps, "traffic": {"nbytes": nbytes, "messages": nbytes}}
        return Run(write_trace(tmp_path / name, groups, algorithm="a_psgd", n_workers=n))

    runs = [run("a.h5", 2), run("b.h5", 4)]
    assert runs[0].busiest_nbytes() == pytest.approx(12e6 * 2 / 30)
    rate, traffic = compose("steps-rate", runs).axes
    ((label, line),) = lines(rate).items()
    assert label == "A-PSGD, no stragglers"
    np.testing.assert_allclose(line.get_xdata(), [2, 4])
    np.testing.assert_allclose(line.get_ydata(), [10, 10])
    np.testing.assert_allclose(traffic.get_lines()[0].get_ydata(), [0.8, 1.6])
    with pytest.raises(UserError, match="two or more numbers of workers"):
        compose("steps-rate", runs[:1])


def test_splits_shows_ratios_paired_by_seed(tmp_path):
    """Median of the ratios 3, 1, 1 is 1; the ratio of the medians 3 and 2 is 1.5."""
    final = {"allreduce_sgd": (1.0, 2.0, 4.0), "d_psgd": (3.0, 2.0, 4.0)}
    runs = [
        losses(tmp_path / f"{algorithm}-{seed}.h5", [9.0, loss], algorithm=algorithm, seed=seed)
        for algorithm, values in final.items()
        for seed, loss in enumerate(values)
    ]
    runs.append(losses(tmp_path / "c.h5", [9.0, 2.0], algorithm="allreduce_sgd", split="labels:classes=2"))
    runs.append(losses(tmp_path / "d.h5", [9.0, 5.0], algorithm="d_psgd", split="labels:classes=2"))
    (axes,) = compose("splits", runs).axes
    np.testing.assert_allclose(lines(axes)["D-PSGD"].get_ydata(), [1.0, 2.5])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["n = 4\niid", "n = 4\nlabels\nclasses=2"]
    with pytest.raises(UserError, match=r"d\.h5: no run of AllReduce-SGD"):
        compose("splits", runs[:6] + runs[7:])


def swept(path, epoch_s, loss, **more):
    """A trace whose gradients make this epoch time and whose losses come every second."""
    t_s = np.arange(len(loss), dtype=float)
    columns = {"t_s": t_s, "epoch": t_s, "loss": loss, "consensus": loss}
    steps = {"t_s": [epoch_s, epoch_s / 2], "samples": [500, 500]}
    return Run(write_trace(path, {"evaluations": columns, "steps": steps}, **more))


def test_heterogeneity_has_a_row_for_each_level_with_medians_over_repetitions(tmp_path):
    """Epoch time 2 n of AD-PSGD, 3 n s of D-PSGD slowed s times; both fall by 1 a second, D-PSGD s times slower."""
    runs = []
    for s, stragglers in ((10, SLOW), (1, "none"), (2, "fixed:rank=1,factor=2")):
        for n in (4, 8):
            for seed in range(3):
                same = {"n_workers": n, "stragglers": stragglers, "seed": seed}
                name = f"{s}-{n}-{seed}.h5"
                runs.append(swept(tmp_path / f"ad-{name}", 2 * n * (1 + seed), [5.0, 4.0, 3.0, 2.0], **same))
                slow = [5.0, 5 - 1 / s, 5 - 2 / s, 5 - 3 / s]
                runs.append(swept(tmp_path / f"d-{name}", 3 * n * s, slow, algorithm="d_psgd", **same))
    figure = compose("heterogeneity", runs)
    assert_legible(figure)
    assert len(figure.axes) == 6
    assert [axes.get_title(loc="left") for axes in figure.axes[::2]] == [
        "no stragglers",
        "rank 1 slowed 2×",
        "rank 1 slowed 10×",
    ]
    for axes, s in zip(figure.axes[::2], (1, 2, 10), strict=True):
        drawn = lines(axes)
        np.testing.assert_allclose(drawn["AD-PSGD"].get_ydata(), [16, 32])
        np.testing.assert_allclose(drawn["D-PSGD"].get_ydata(), [12 * s, 24 * s])
        np.testing.assert_allclose(drawn["D-PSGD"].get_xdata(), [4, 8], rtol=0.02)
        assert drawn["D-PSGD"].get_linestyle() == "-"
    # 5/6 of the runs come to 3.5 or less, the last sixth only to 4.7: that is the loss nine of ten reach, and with a
    # twentieth of the way from 5 on to spare it is 4.7 (5 / 4.7)^0.05 = 4.715, rounded up
    assert figure.axes[1].get_ylabel() == "s to loss 4.8"
    for axes, s in zip(figure.axes[1::2], (1, 2, 10), strict=True):
        np.testing.assert_allclose(lines(axes)["AD-PSGD"].get_ydata(), [0.2, 0.2])
        np.testing.assert_allclose(lines(axes)["D-PSGD"].get_ydata(), [0.2 * s, 0.2 * s])


def test_a_median_run_that_does_not_reach_the_loss_stands_above_all_that_do(tmp_path):
    runs = [swept(tmp_path / f"{k}.h5", 1.0, [5.0, 1.0], seed=k) for k in range(19)]
    runs.append(swept(tmp_path / "d.h5", 1.0, [5.0, 4.0], algorithm="d_psgd", status="diverged"))
    right = compose("heterogeneity", runs).axes[1]
    assert right.get_ylabel() == "s to loss 1.1"
    assert lines(right)["AD-PSGD"].get_ydata() == pytest.approx([0.975])
    assert lines(right)["D-PSGD, diverged"].get_ydata() == pytest.approx([1.95])
    (above,) = (line for line in right.get_lines() if line.get_label() == "not reached")
    assert list(above.get_ydata()) == pytest.approx([1.95, 1.95])


def test_levels_of_a_sweep_are_delays_and_splits(tmp_path):
    same = [("none", "iid"), ("none", "labels:classes=2"), (SLOW, "iid")]
    runs = [
        swept(tmp_path / f"{k}-{n}.h5", 1.0, [2.0, 1.0], stragglers=stragglers, split=split, n_workers=n)
        for k, (stragglers, split) in enumerate(same)
        for n in (2, 4)
    ]
    figure = compose("loss-facets", runs)
    assert_legible(figure)
    titles = [" ".join(axes.get_title(loc="left").split()) for axes in figure.axes]
    levels = ("no stragglers, iid", "no stragglers, labels:classes=2", "rank 1 slowed 10×, iid")
    assert titles == [f"{level}, n = {n}" for level in levels for n in (2, 4)]
    for axes in figure.axes:
        (curve,) = lines(axes).values()
        assert curve.get_label() == "AD-PSGD"
        assert curve.get_linestyle() == "-"
        np.testing.assert_array_equal(curve.get_ydata(), [2.0, 1.0])
    assert [axes.get_title(loc="left") for axes in compose("heterogeneity", runs).axes[::2]] == list(levels)


def test_shares_stand_beside_each_other(tmp_path):
    shares = {"data_share": [0.5, 0.25, 0.125, 0.125], "update_share": [0.1, 0.3, 0.3, 0.3]}
    (axes,) = compose("shares", [Run(write_trace(tmp_path / "a.h5", {"workers": shares}))]).axes
    heights = [bar.get_height() for bar in axes.patches]
    np.testing.assert_allclose(heights, [*shares["data_share"], *shares["update_share"]])
    (fair,) = (line for line in axes.get_lines() if "1/n" in line.get_label())
    assert set(fair.get_ydata()) == {0.25}


def test_figures_need_rows(tmp_path):
    empty = {group: {name: [] for name in schema.GROUPS[group]} for group in ("evaluations", "steps", "events")}
    run = Run(write_trace(tmp_path / "empty.h5", empty))
    slow = Run(write_trace(tmp_path / "slow.h5", empty, stragglers=SLOW))
    for name in FIGURES:
        with pytest.raises(UserError, match=r"empty\.h5.*no |two or more numbers"):
            compose(name, [run, slow])


@pytest.mark.parametrize(
    ("algorithm", "config", "name"),
    [
        ("allreduce_sgd", {"rule": "adam"}, "Adam"),
        ("allreduce_sgd", {"rule": "sgd"}, "AllReduce-SGD"),
        ("sign_sgd", {"variant": "signum", "vote": "majority"}, "Signum"),
        ("sign_sgd", {"variant": "signum", "vote": "none"}, "Signum without a vote"),
        ("sign_sgd", {"variant": "signsgd"}, "signSGD"),
        ("my_program", {}, "my_program"),
    ],
)
def test_a_variant_has_its_own_name(tmp_path: Path, algorithm: str, config: dict[str, str], name: str) -> None:
    run = Run(write_trace(tmp_path / "run.h5", {}, config, algorithm=algorithm))
    assert run.name == name
    assert run.label == f"{name}, no stragglers"
