"""Rates against workers, delays and batch sizes."""

import json

import h5py
import numpy as np
import pytest
from drawn import lines
from made_traces import SLOW, rates, simulate, write_trace

from outpace.benchmarks.figures import compose
from outpace.benchmarks.trace.run import Run, busiest
from outpace.comm.errors import UserError


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
        (
            [("ad_psgd", SLOW), ("ad_psgd", "fixed:rank=2,factor=10")],
            r"1\.h5 and .*2\.h5 differ in stragglers \(rank 1 slowed 10×, rank 2 slowed 10×\)",
        ),
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


def test_speed_up_is_over_the_programs_own_smallest_number_of_workers(tmp_path):
    measured = {("d_psgd", 1): 100, ("d_psgd", 2): 190, ("d_psgd", 8): 600, ("ad_psgd", 2): 250, ("ad_psgd", 8): 1000}
    runs = [
        rates(tmp_path / f"{a}{n}.h5", rate, algorithm=a, n_workers=n) for (a, n), rate in reversed(measured.items())
    ]
    (axes,) = compose("speed-up", runs).axes
    drawn = {label.replace("\u00a0", " "): line.get_xydata().tolist() for label, line in lines(axes).items()}
    assert drawn == {
        "D-PSGD (100/s at n = 1)": [[1, 1], [2, 1.9], [8, 6]],
        "AD-PSGD (250/s at n = 2)": [[2, 1], [8, 4]],
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


def test_steps_rate_shows_gradients_and_the_busiest_rank(tmp_path):
    """Two workers and a server: 30 gradients in 3 s; the server gets 8 + 4 MB and sends 6 + 5."""
    nbytes = 1e6 * np.array([[0, 0, 8], [0, 0, 4], [6, 5, 0]])

    def run(name, n):
        steps = {"step": np.arange(30), "t_s": np.linspace(0.1, 3.0, 30), "samples": np.full(30, 32)}
        groups = {"steps": steps, "traffic": {"nbytes": nbytes, "messages": nbytes / 1e5}}
        return Run(write_trace(tmp_path / name, groups, algorithm="a_psgd", n_workers=n))

    runs = [run("a.h5", 2), run("b.h5", 4)]
    assert runs[0].busiest_nbytes() == pytest.approx(12e6 * 2 / 30)
    assert busiest(runs[0], "messages") == pytest.approx(120 * 2 / 30)
    rate, traffic = compose("steps-rate", runs).axes
    ((label, line),) = lines(rate).items()
    assert label == "A-PSGD"
    np.testing.assert_allclose(line.get_xdata(), [2, 4])
    np.testing.assert_allclose(line.get_ydata(), [10, 10])
    np.testing.assert_allclose(traffic.get_lines()[0].get_ydata(), [0.8, 1.6])
    with pytest.raises(UserError, match="two or more numbers of workers"):
        compose("steps-rate", runs[:1])


def test_traffic_is_that_of_the_model_which_the_messages_count_for(tmp_path):
    """--wire-bytes makes a model of 1,000 numbers count as one of 8 MB, 2,000 times its 4 kB."""
    runs = []
    for n in (2, 4):
        path = simulate(tmp_path / f"{n}.h5", n=n)
        with h5py.File(path, "r+") as file:
            config = json.loads(file.attrs["config"]) | {"wire_bytes": 8e6, "dtype": "float32"}
            file.attrs.update({"config": json.dumps(config), "dim": 1000})
        runs.append(Run(path))
    traffic = compose("steps-rate", runs).axes[1].get_lines()[0].get_ydata()
    np.testing.assert_allclose(traffic, [2000 * run.busiest_nbytes() / 1e6 for run in runs])


def test_equal_traffic_is_drawn_side_by_side(tmp_path):
    """Stragglers change no bytes; the two curves are beside one another, and the caption says so."""
    runs = [
        Run(simulate(tmp_path / f"{n}-{k}.h5", n=n, stragglers=stragglers))
        for n in (2, 4)
        for k, stragglers in enumerate(("none", SLOW))
    ]
    figure = compose("steps-rate", runs)
    one, other = (line.get_xdata() for line in figure.axes[1].get_lines())
    np.testing.assert_allclose(other / one, [1.025, 1.025])
    assert "curves side by side at each n" in figure.get_suptitle().replace("\u00a0", " ")


def test_one_machine_is_not_the_point_before_another(tmp_path):
    """A speed-up from runs of two machines is none of either; more nodes of one are what it is about."""
    runs = [rates(tmp_path / f"{n}.h5", n, n_workers=n, cores=n, hostnames=["a", "b"][:n]) for n in (1, 2)]
    compose("speed-up", runs)
    runs[1] = rates(tmp_path / "2.h5", 2, n_workers=2, cpu_model="Xeon")
    with pytest.raises(UserError, match=r"1\.h5 and .*2\.h5 differ in cpu_model \(None, Xeon\): so they cannot share"):
        compose("speed-up", runs)


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
    np.testing.assert_allclose(lines(rounds)["SVRG"].get_xydata(), [[1, 1001], [10, 101]], rtol=0.03)
    assert len({line.get_xdata()[0] for line in lines(rounds).values()}) == 3  # of three with one law
    to_target = next(line for line in passes.get_lines() if len(line.get_xdata()) == 2)
    np.testing.assert_array_equal(to_target.get_ydata(), [30, 40])
    with pytest.raises(UserError, match=r"batches: all runs have the batch size 1; needs two or more"):
        compose("batches", runs[::2])


def test_step_sizes_are_in_units_of_the_analysis(tmp_path):
    """m = 25, b = 4, L = 2: the analysis allows 0.4 / 4 = 0.1. A run that has not got there is infinite."""
    made = []
    for multiple, end in ((1, 1e-9), (8, 1e-9), (32, 1e-3), (64, 1e-3)):
        groups = {"evaluations": {"suboptimality": [1.0, end], "gradients": [0, 300 / multiple]}}
        constants = json.dumps({"m": 25, "L": 2.0, "step_size": 0.1 * multiple})
        flags = {"step_size": 0.1 * multiple, "batch_size": 4, "compute_time": 0}
        path = tmp_path / f"{multiple}.h5"
        made.append(Run(write_trace(path, groups, flags, algorithm="svrg", constants=constants)))
    runs = made[:3]
    figure = compose("step-sizes", runs)
    (axes,) = figure.axes
    assert "b = 4; no point: not reached" in " ".join(figure.get_suptitle().split())
    assert "no point" not in compose("step-sizes", runs[:2]).get_suptitle()
    np.testing.assert_array_equal(lines(axes)["SVRG"].get_xydata(), [[1, 300], [8, 37.5], [32, np.inf]])
    with pytest.raises(
        UserError, match=r"step-sizes: all runs have the step size 8 of the analysis; needs two or more"
    ):
        compose("step-sizes", runs[1:2])
    (never,) = compose("step-sizes", made[2:]).legends[0].get_texts()
    assert never.get_text() == "SVRG, never"
    runs[0].objects["constants"]["L"] = None
    with pytest.raises(UserError, match=r"1\.h5: no smoothness is known"):
        compose("step-sizes", runs)
