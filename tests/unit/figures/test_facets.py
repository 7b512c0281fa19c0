"""Figures over a whole sweep."""

import numpy as np
import pytest
from drawn import assert_legible, lines
from made_traces import SLOW, losses, write_trace

from outpace.benchmarks.figures import compose
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError


def swept(path, epoch_s, loss, config=None, **more):
    """A trace whose gradients make this epoch time and whose losses come every second."""
    t_s = np.arange(len(loss), dtype=float)
    columns = {"t_s": t_s, "epoch": t_s, "loss": loss, "consensus": loss}
    steps = {"t_s": [epoch_s / 2, epoch_s], "samples": [500, 500]}
    return Run(write_trace(path, {"evaluations": columns, "steps": steps}, config, **more))


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


def test_variants_of_one_program_have_their_own_label_and_place(tmp_path):
    rules = {"sgd": 2.0, "momentum": 3.0, "adam": 4.0}
    runs = [
        swept(tmp_path / f"{rule}.h5", epoch_s, [5.0, 1.0], {"rule": rule}, algorithm="allreduce_sgd")
        for rule, epoch_s in rules.items()
    ]
    drawn = lines(compose("heterogeneity", runs).axes[0])
    assert {label: line.get_ydata().tolist() for label, line in drawn.items()} == {
        "AllReduce-SGD": [2.0],
        "Momentum SGD": [3.0],
        "Adam": [4.0],
    }
    assert len({line.get_xdata()[0] for line in drawn.values()}) == 3


def test_a_median_run_that_does_not_reach_the_loss_stands_above_all_that_do(tmp_path):
    runs = [swept(tmp_path / f"{k}.h5", 1.0, [5.0, 1.0], seed=k) for k in range(19)]
    runs.append(swept(tmp_path / "d.h5", 1.0, [5.0, 4.0], algorithm="d_psgd", status="diverged"))
    right = compose("heterogeneity", runs).axes[1]
    assert right.get_ylabel() == "s to loss 1.1"
    assert lines(right)["AD-PSGD"].get_ydata() == pytest.approx([0.975])
    assert lines(right)["D-PSGD, diverged"].get_ydata() == pytest.approx([1.95])
    (above,) = (line for line in right.get_lines() if line.get_label() == "not reached")
    assert list(above.get_ydata()) == pytest.approx([1.95, 1.95])


def test_an_even_number_of_runs_has_one_median_in_all_figures(tmp_path):
    """Of 1 and 2 s it is 1.5 s; of a time and none it is none."""
    runs = [
        swept(tmp_path / f"{k}.h5", 1.0 + k % 2, [5.0, 1.0], seed=k, stragglers=stragglers)
        for k, stragglers in enumerate(("none", "none", SLOW, SLOW))
    ]
    for name in ("heterogeneity", "epoch-time"):
        assert lines(compose(name, runs).axes[0])["AD-PSGD"].get_ydata()[0] == 1.5
    runs[1] = swept(tmp_path / "1.h5", 1.0, [5.0, 4.0], seed=1)
    right = compose("heterogeneity", runs, loss=2.0).axes[1]
    assert lines(right)["AD-PSGD"].get_ydata() == pytest.approx([1.5])  # twice the 0.75 s of those that reach it


def test_the_loss_of_heterogeneity_can_be_chosen(tmp_path):
    run = swept(tmp_path / "a.h5", 1.0, [5.0, 1.0])
    right = compose("heterogeneity", [run], loss=3.0).axes[1]
    assert right.get_ylabel() == "s to loss 3"
    assert lines(right)["AD-PSGD"].get_ydata() == pytest.approx([0.5])
    with pytest.raises(UserError, match="loss-time: --loss is of the figures heterogeneity and bandwidth"):
        compose("loss-time", [run], loss=3.0)


RATES = {"none": 400.0, "all:rate=1gbit": 1000.0, "all:rate=20mbit": 20.0}


def test_bandwidth_has_a_column_for_each_level_of_stragglers_and_an_edge_without_links(tmp_path):
    """AD-PSGD takes 2 s an epoch, and 1000 / rate more behind links; D-PSGD twice that, and s times where slowed. Of
    each time three launches, with 2 s more and less. The loss falls by 1 in each second that is told."""
    runs = []
    for s, stragglers in ((10, SLOW), (1, "none")):
        for spec, rate in RATES.items():
            epoch_s = 2 if spec == "none" else 2 + 1000 / rate
            for seed, more in enumerate((0, -1, 1)):
                same = {"stragglers": stragglers, "links": spec, "seed": seed}
                name = f"{s}-{rate}-{seed}.h5"
                slow = [5.0, 5 - 1 / s, 5 - 2 / s, 5 - 3 / s]
                runs.append(swept(tmp_path / f"ad-{name}", epoch_s + more, [5.0, 4.0, 3.0, 2.0], **same))
                runs.append(swept(tmp_path / f"d-{name}", 2 * s * epoch_s, slow, algorithm="d_psgd", **same))
    figure = compose("bandwidth", runs)
    assert_legible(figure)
    epochs, times = figure.axes[:2], figure.axes[2:]
    assert [axes.get_title(loc="left") for axes in epochs] == ["no stragglers", "rank 1 slowed 10×"]
    assert [tick.get_text() for tick in times[0].get_xticklabels()] == ["20M", "1G", "no\nlinks"]
    assert "links" not in figure.get_suptitle()
    for axes, s in zip(epochs, (1, 10), strict=True):
        drawn = lines(axes)
        np.testing.assert_allclose(drawn["AD-PSGD"].get_ydata(), [52, 3, 2])
        np.testing.assert_allclose(drawn["D-PSGD"].get_ydata(), [104 * s, 6 * s, 4 * s])
        np.testing.assert_allclose(drawn["D-PSGD"].get_xdata(), axes.get_xticks(), rtol=0.02)
        assert drawn["D-PSGD"].get_linestyle() == "-"
    assert times[0].get_ylabel() == "s to loss 4.8"
    for axes, s in zip(times, (1, 10), strict=True):
        np.testing.assert_allclose(lines(axes)["D-PSGD"].get_ydata(), 3 * [0.2 * s])
    assert compose("bandwidth", runs, loss=3.0).axes[2].get_ylabel() == "s to loss 3"


def test_bandwidth_needs_one_rate_and_the_same_settings_at_all(tmp_path):
    def run(name, spec, **more):
        return swept(tmp_path / f"{name}.h5", 1.0, [5.0, 1.0], links=spec, **more)

    free, fast = run("free", "none"), run("fast", "all:rate=1gbit")
    for others, reason in (
        ([], r"free\.h5: no run has links; needs runs with --links all:rate="),
        ([fast, run("one", "fixed:rank=0,rate=1gbit")], r"one\.h5: 'fixed:rank=0,rate=1gbit' is not one rate"),
        ([fast, run("far", "all:rate=1gbit,delay=5ms")], r"fast\.h5 and .*far\.h5 differ in links .* share a point"),
        ([run("step", "all:rate=1gbit", config={"step_size": 0.2})], "differ in step_size"),
        ([fast, run("many", "all:rate=1gbit", n_workers=8)], "differ in n_workers"),
    ):
        with pytest.raises(UserError, match=reason):
            compose("bandwidth", [free, *others])
    levels = [run(f"s{k}", "all:rate=1gbit", stragglers=f"fixed:rank=0,factor={k}") for k in range(2, 7)]
    with pytest.raises(UserError, match="bandwidth: 5 panels; at most 4: --where takes some"):
        compose("bandwidth", levels)


def test_links_are_levels_as_stragglers_are(tmp_path):
    """The mildest first: no links, then those of the faster slow link."""
    specs = ("fixed:rank=0,factor=100,others=1gbit", "none", "all:rate=1gbit", "fixed:rank=0,factor=2,others=1gbit")
    runs = [
        swept(tmp_path / f"{k}-{j}.h5", k + 1.0, [2.0, 1.0], stragglers=stragglers, links=spec)
        for j, stragglers in enumerate(("none", SLOW))
        for k, spec in enumerate(specs)
    ]
    figure = compose("heterogeneity", runs)
    assert_legible(figure)
    titles = [
        f"{stragglers}, {words}"
        for stragglers in ("no stragglers", "rank 1 slowed 10×")
        for words in ("no links", "links of 1 Gbit/s", *(f"link of rank 0 {k}× slower than 1 Gbit/s" for k in (2, 100)))
    ]
    assert [axes.get_title(loc="left").replace("\n", " ") for axes in figure.axes[::2]] == titles
    assert [lines(axes)["AD-PSGD"].get_ydata()[0] for axes in figure.axes[::2]] == [2, 3, 4, 1, 2, 3, 4, 1]


def test_all_panels_of_a_grid_have_one_scale(tmp_path):
    """Though the losses of one of them span less than a factor of ten, and its runs a tenth of the time."""
    runs = [
        losses(tmp_path / "a.h5", [2.0, 0.01], t_s=[0.0, 100.0], stragglers=SLOW),
        losses(tmp_path / "b.h5", [2.0, 1.0], t_s=[0.0, 1.0]),
    ]
    panels = compose("loss-facets", runs).axes
    assert {(axes.get_xscale(), axes.get_yscale(), axes.get_xlim(), axes.get_ylim()) for axes in panels} == {
        ("symlog", "log", panels[0].get_xlim(), panels[0].get_ylim())
    }


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


def test_splits_keeps_straggler_levels_apart(tmp_path):
    """Each is paired with AllReduce-SGD under the same delays."""
    final = {
        ("allreduce_sgd", "none"): 1.0,
        ("d_psgd", "none"): 2.0,
        ("allreduce_sgd", SLOW): 4.0,
        ("d_psgd", SLOW): 5.0,
    }
    runs = [
        losses(tmp_path / f"{k}.h5", [9.0, loss], algorithm=algorithm, stragglers=stragglers)
        for k, ((algorithm, stragglers), loss) in enumerate(final.items())
    ]
    figure = compose("splits", runs)
    assert_legible(figure)
    np.testing.assert_allclose(lines(figure.axes[0])["D-PSGD"].get_ydata(), [2.0, 1.25])
    ticks = [" ".join(tick.get_text().split()) for tick in figure.axes[0].get_xticklabels()]
    assert ticks == ["n = 4 iid no stragglers", "n = 4 iid rank 1 slowed 10×"]
    assert "medians" not in figure.get_suptitle()
