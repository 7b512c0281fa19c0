"""Repetitions: medians, single runs, intervals."""

import re

import numpy as np
import pytest
from drawn import lines
from made_traces import SLOW, losses, rates

from outpace.benchmarks.figures import compose
from outpace.benchmarks.trace.run import Run
from outpace.benchmarks.trace.selection import ALIASES, chosen
from outpace.comm.errors import UserError


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
    assert list(drawn) == ["AD-PSGD, 1 of 3 diverged"]


def test_runs_that_differ_in_a_setting_are_no_repetitions(tmp_path):
    first = losses(tmp_path / "a.h5", [2.0, 1.0])
    longer = {"epochs": 40, "out": "b.h5", "evaluations": 9, "seed": 1, "time_budget": 3.0, "overwrite": True}
    compose("loss-time", [first, losses(tmp_path / "b.h5", [2.0, 1.0], config=longer)])
    with pytest.raises(UserError, match=r"a\.h5 and .*c\.h5 differ in step_size \(0\.1, 0\.2\)"):
        compose("loss-time", [first, losses(tmp_path / "c.h5", [2.0, 1.0], config={"step_size": 0.2})])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("cpu_model", ("EPYC", "Xeon")),
        ("mpi_library", ("MPICH 5", "Open MPI 5")),
        ("git_commit", ("a1", "b2")),
        ("gpu", ("H200", "none")),
        ("cores", (2, 4)),
        ("n_nodes", (1, 2)),
        ("step-size", (0.1, 0.2)),
        ("workers", (4, 8)),
        ("split", ("iid", "labels:classes=2")),
        ("compute-time", (0.01, 0.02)),
    ],
)
def test_what_differs_is_refused_by_its_name_and_drawn_as_a_curve_on_request(tmp_path, name, values):
    """Machines, software, flags and what a figure states alike; each can also be chosen."""
    paths = []
    for k, value in enumerate(values):
        if name == "n_nodes":
            place = {"hostnames": [f"host{rank % value}" for rank in range(4)]}
        elif "-" in name:
            place = {"config": {name.replace("-", "_"): value}}
        else:
            place = {ALIASES.get(name, name): value}
        paths.append(losses(tmp_path / f"{k}.h5", [2.0, 1.0 + k], **place).path)
    with pytest.raises(UserError, match=r"0\.h5 and .*1\.h5 differ in") as refused:
        compose("loss-time", [Run(path) for path in paths])
    assert "\n" not in str(refused.value)
    if name != "compute-time":
        key = ALIASES.get(name, name).replace("-", "_")
        assert f"--group-by {key} draws a curve for each, --where {key}=VALUE takes one" in str(refused.value)
    figure = compose("loss-time", [Run(path) for path in paths], by=name)
    drawn = lines(figure.axes[0])
    assert list(drawn) == [f"AD-PSGD, {name} {value}" for value in values]
    assert [line.get_ydata()[-1] for line in drawn.values()] == [1.0, 2.0]
    assert len({str(line.get_linestyle()) + str(line._dash_pattern) for line in drawn.values()}) == 2
    for k, value in enumerate(values):
        (one,) = chosen([Run(path) for path in paths], [f"{name}={value}"])
        assert one.path == paths[k]


def test_groups_are_ordered_as_numbers(tmp_path):
    runs = [losses(tmp_path / f"{n}.h5", [2.0, 1.0], n_workers=n) for n in (16, 4, 8)]
    assert list(lines(compose("loss-time", runs, by="workers").axes[0])) == [
        f"AD-PSGD, workers {n}" for n in (4, 8, 16)
    ]
    with pytest.raises(UserError, match=r"^--group-by: unknown attribute or flag 'worker'; allowed: .*n_workers"):
        compose("loss-time", runs, by="worker")


def test_a_run_without_what_is_grouped_by_keeps_its_name(tmp_path):
    """A flag that some of the programs do not have."""
    periods = ({}, {"period": 16}, {"period": 2})
    runs = [losses(tmp_path / f"{k}.h5", [2.0, 1.0], config=config) for k, config in enumerate(periods)]
    drawn = lines(compose("loss-time", runs, by="period").axes[0])
    assert list(drawn) == ["AD-PSGD", "AD-PSGD, period 2", "AD-PSGD, period 16"]


def test_traces_are_chosen_by_any_name(tmp_path):
    runs = [
        losses(tmp_path / f"{n}-{size}.h5", [2.0], n_workers=n, config={"step_size": size, "nesterov": size > 0.1})
        for n in (2, 4, 8)
        for size in (0.1, 0.2)
    ]

    def told(*conditions: str) -> list[str]:
        return [run.path.stem for run in chosen(runs, conditions)]

    assert told("workers=8", "step-size=0.10") == ["8-0.1"]
    assert told("nesterov=true", "workers=2") == ["2-0.2"]
    assert told("workers=2", "workers=8", "nesterov=False") == ["2-0.1", "8-0.1"]
    assert told() == [run.path.stem for run in runs]
    specs = [losses(tmp_path / f"{n}.h5", [2.0], problem=f"quadratic:dim={n},condition=10") for n in (5, 55)]
    for text in ("quadratic:dim=5", "quadratic:condition=10,dim=5", "quadratic:dim=5,condition=10"):
        assert [run.path.stem for run in chosen(specs, [f"problem={text}"])] == ["5"]
    for text in ("quadratic", "quadratic:dim", "pca:dim=5", "quadratic:dim=5,zeta=1"):
        with pytest.raises(UserError, match="no trace has it"):
            chosen(specs, [f"problem={text}"])
    for conditions, said in (
        (["workers=3"], "--where workers=3: no trace has it; among them: 2, 4, 8"),
        (["lr=3"], "--where: unknown attribute or flag 'lr'; allowed: algorithm, "),
        (["workers"], "--where workers: not of the form NAME=VALUE"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            chosen(runs, conditions)


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
    figure = compose("speed-up", runs)
    (axes,) = figure.axes
    (median,) = lines(axes).values()
    np.testing.assert_allclose(median.get_ydata(), [1, 2])
    each = [line.get_ydata().tolist() for line in axes.get_lines() if line.get_markersize() == 3]
    assert each == [[0.5, 1, 4.5], [1, 2, 9]]
    assert "open: each run" in figure.get_suptitle().replace("\u00a0", " ")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("loss", [[np.nan, np.nan], [np.inf, -np.inf], [1e308, np.nan], [-1.0, -1e308]])
def test_a_run_that_is_nowhere_finite_hides_no_other(tmp_path, loss):
    """It stands above the panel, and what is past all numbers moves no axis."""
    gone = losses(tmp_path / "gone.h5", loss, algorithm="d_psgd", status="diverged")
    whole = losses(tmp_path / "whole.h5", [2.0, 1.0])
    for runs in ([gone], [whole, gone]):
        figure = compose("loss-time", runs)
        figure.draw_without_rendering()
        told = figure.get_suptitle().replace("\u00a0", " ").replace("\n", " ")
        assert "not finite: D-PSGD, diverged" in told or "D-PSGD, diverged" in lines(figure.axes[0])
    np.testing.assert_allclose(lines(figure.axes[0])["AD-PSGD"].get_ydata(), [2.0, 1.0])
    assert np.abs(figure.axes[0].get_ylim()).max() < 10
