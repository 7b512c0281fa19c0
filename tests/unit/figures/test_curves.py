"""Curves against time, epochs or effort."""

import numpy as np
import pytest
from drawn import lines
from made_traces import SLOW, losses, write_trace

from outpace.benchmarks.figures import compose
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError


def test_loss_is_drawn_as_recorded_against_time_and_epochs(tmp_path):
    run = losses(tmp_path / "a.h5", [2.0, 1.0, 0.5], t_s=[0.0, 1.0, 3.0])
    for name, xs in (("loss-time", [0.0, 1.0, 3.0]), ("loss-epochs", [0.0, 2.0, 6.0])):
        (line,) = lines(compose(name, [run]).axes[0]).values()
        np.testing.assert_array_equal(line.get_xydata(), np.stack([xs, [2.0, 1.0, 0.5]], 1))


def test_what_is_held_out_is_drawn_as_recorded(tmp_path):
    columns = {"held_out_loss": [2.5, 1.5, 0.75], "accuracy": [0.09, 0.5, 0.95]}
    run = losses(tmp_path / "a.h5", [2.0, 1.0, 0.5], t_s=[0.0, 1.0, 3.0], besides=columns)
    for figure, column in (("held-out-loss", "held_out_loss"), ("accuracy", "accuracy")):
        for against, xs in (("time", [0.0, 1.0, 3.0]), ("epochs", [0.0, 2.0, 6.0])):
            (axes,) = compose(f"{figure}-{against}", [run]).axes
            (line,) = lines(axes).values()
            np.testing.assert_array_equal(line.get_xydata(), np.stack([xs, columns[column]], 1))
    assert axes.get_yscale() == "linear"  # though it spans a factor of ten
    assert axes.get_ylim() == (0, 1)


def test_the_accuracy_of_a_run_that_diverged_counts_as_the_worst(tmp_path):
    runs = [
        losses(tmp_path / f"{seed}.h5", [2.0] * len(values), seed=seed, status=status, besides={"accuracy": values})
        for seed, (values, status) in enumerate(
            [([0.1, 0.5, 0.9], "complete"), ([0.1, 0.6, 0.8], "complete"), ([0.1, 0.7], "diverged")]
        )
    ]
    (median,) = lines(compose("accuracy-time", runs).axes[0]).values()
    np.testing.assert_allclose(median.get_ydata(), [0.1, 0.6, 0.8])


def test_a_trace_without_the_column_is_refused_in_one_line(tmp_path):
    runs = [
        losses(tmp_path / "new.h5", [2.0], besides={"held_out_loss": [2.0], "accuracy": [0.1]}),
        losses(tmp_path / "old.h5", [2.0], algorithm="d_psgd"),
    ]
    for figure, column in (("held-out-loss", "held_out_loss"), ("accuracy", "accuracy")):
        for against in ("time", "epochs"):
            with pytest.raises(UserError, match=rf"^\S*old\.h5: no column {column} in /evaluations$"):
                compose(f"{figure}-{against}", runs)


def test_a_run_that_explodes_does_not_flatten_the_others(tmp_path):
    good = losses(tmp_path / "a.h5", [2.0, 1.0, 0.5])
    bad = losses(tmp_path / "b.h5", [2.0, 1e30, np.inf], algorithm="d_psgd", status="diverged")
    low, high = compose("loss-time", [good, bad]).axes[0].get_ylim()
    assert 0.1 < low < 0.5
    assert 2.0 < high < 50


def test_stragglers_that_all_runs_share_stand_above_and_in_no_label(tmp_path):
    for stragglers, words in (("none", "no stragglers"), (SLOW, "rank 1 slowed 10×")):
        runs = [
            losses(tmp_path / f"{algorithm}.h5", [2.0, 1.0], algorithm=algorithm, stragglers=stragglers)
            for algorithm in ("ad_psgd", "d_psgd")
        ]
        figure = compose("loss-time", runs)
        assert list(lines(figure.axes[0])) == ["D-PSGD", "AD-PSGD"]
        assert words in figure.get_suptitle().replace("\u00a0", " ")


def test_no_marker_of_a_curve_in_view_is_cut(tmp_path):
    whole = losses(tmp_path / "a.h5", [2.0, 1.0, 0.5], besides={"accuracy": [0.0, 0.5, 1.0]})
    gone = losses(tmp_path / "b.h5", [2.0, 1e30], algorithm="d_psgd", status="diverged")
    (line,) = lines(compose("accuracy-time", [whole]).axes[0]).values()
    assert not line.get_clip_on()
    drawn = lines(compose("loss-time", [whole, gone]).axes[0])
    assert not drawn["AD-PSGD"].get_clip_on()
    assert drawn["D-PSGD, diverged"].get_clip_on()


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
    assert axes.get_xlabel() == "time (s), linear up to 0.5"  # a tick stands there
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.5", "1", "10"]
    assert compose("loss-time", [long]).axes[0].get_xscale() == "linear"


def test_consensus_is_logarithmic_and_leaves_out_exact_zeros(tmp_path):
    gossip = losses(tmp_path / "a.h5", [0.0, 0.5, 0.25], algorithm="d_psgd")
    exact = losses(tmp_path / "b.h5", [0.0, 0.0, 0.0], algorithm="allreduce_sgd")
    figure = compose("consensus", [gossip, exact])
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    drawn = lines(axes)
    assert list(drawn) == ["D-PSGD"]  # and the legend
    np.testing.assert_array_equal(drawn["D-PSGD"].get_xydata(), [[1.0, 0.5], [2.0, 0.25]])
    assert "exactly 0: AllReduce-SGD" in figure.get_suptitle().replace("\u00a0", " ")
    compose("consensus", [exact])


def test_gradients_are_averaged_over_the_epochs_so_far(tmp_path):
    """Squares 16, 4, 0 at the epochs 0, 1, 3: of 10 and 4 + 10 in all. Evaluations are not equally far apart, and two
    may come before the first step's end."""
    columns = {"epoch": [0.0, 0.0, 1.0, 3.0], "gradient_norm": [4.0, 4.0, 2.0, 0.0]}
    run = Run(write_trace(tmp_path / "a.h5", {"evaluations": columns}))
    (line,) = lines(compose("gradient-mean", [run]).axes[0]).values()
    np.testing.assert_allclose(line.get_xydata(), [[0, 16], [0, 16], [1, 10], [3, 14 / 3]])
    columns["gradient_norm"] = [4.0, 4.0, 1e200, np.nan]
    diverged = Run(write_trace(tmp_path / "b.h5", {"evaluations": columns}, status="diverged"))
    (line,) = lines(compose("gradient-mean", [diverged]).axes[0]).values()
    np.testing.assert_array_equal(line.get_xydata(), [[0, 16], [0, 16]])


def test_noise_shows_the_last_histograms_and_their_shapes(tmp_path):
    """Two equal points, two unequal ones, and seven points alike: their skewness and bimodality are known."""
    low = np.arange(-4.75, 4.75, 0.5)
    shares = np.zeros((4, len(low)))
    shares[0, 0] = 1.0  # an earlier evaluation
    shares[1, [7, 11]] = 0.5
    shares[2, [8, 18]] = 0.9, 0.1
    shares[3, 6:13] = 1 / 7
    columns = {"evaluation": np.repeat([0, 5, 5, 5], len(low)), "coordinate": np.repeat([1, 2, 0, 3], len(low))}
    columns |= {"sigma": np.ones(shares.size), "low": np.tile(low, 4), "share": shares.ravel()}
    (axes,) = compose("noise", [Run(write_trace(tmp_path / "a.h5", {"noise": columns}))]).axes
    drawn = [patch.get_data() for patch in axes.patches]
    np.testing.assert_allclose([step.values for step in drawn], 2 * shares[1:])
    np.testing.assert_allclose(drawn[0].edges, np.append(low, 4.75))
    title = " ".join(axes.get_title(loc="left").split())
    assert title.endswith("skewness 0.00 to 2.67, bimodality 0.57 to 1.00")
    z, density = axes.get_lines()[0].get_data()
    assert np.trapezoid(density, z) == pytest.approx(1, abs=1e-5)
    assert np.trapezoid(density * z**2, z) == pytest.approx(1, abs=1e-4)
