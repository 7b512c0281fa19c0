"""The reader, over made traces whose numbers are known."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from made_traces import losses, rates, write_trace

from outpace.benchmarks.trace import schema
from outpace.benchmarks.trace.run import Run, exchanges_per_gradient
from outpace.comm.errors import UserError


def test_attributes_are_plain_and_columns_are_arrays(tmp_path):
    run = losses(tmp_path / "a.h5", [2.0, 1.0], n_workers=2, n_samples=np.array([3, 4]))
    assert type(run.attrs["n_workers"]) is int
    assert run.attrs["n_samples"] == [3, 4]
    assert run.config["step_size"] == 0.1
    np.testing.assert_array_equal(run.column("evaluations", "loss"), [2.0, 1.0])
    assert run.has("evaluations", "loss")
    assert not run.has("evaluations", "accuracy")
    assert not run.has("steps", "rank")


@pytest.mark.parametrize(
    ("algorithm", "name", "stragglers", "level"),
    [
        ("ad_psgd", "AD-PSGD", "none", "no stragglers"),
        ("allreduce_sgd", "AllReduce-SGD", "fixed:rank=3,factor=10", "rank 3 slowed 10×"),
        ("d_psgd", "D-PSGD", "fixed:rank=0+3,factor=2.5", "ranks 0, 3 slowed 2.5×"),
        ("d2", "D²", "random:p=0.1,factor=5", "random:p=0.1,factor=5"),
        ("my_sgd", "my_sgd", "none", "no stragglers"),
    ],
)
def test_program_and_injected_delays_in_words(tmp_path, algorithm, name, stragglers, level):
    run = losses(tmp_path / "a.h5", [1.0], algorithm=algorithm, stragglers=stragglers)
    assert run.name == name
    assert run.level == level


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


def test_effort_and_rounds(tmp_path):
    """The first evaluation at 1 % of the first suboptimality; never is infinite. Three steps of each of 4 workers."""
    evaluations = {"suboptimality": [2.0, 0.5, 0.02, 0.03], "gradients": [0, 3, 7, 8], "rounds": [0, 10, 20, 30]}
    groups = {"evaluations": evaluations, "steps": {"step": np.zeros(12)}}
    run = Run(write_trace(tmp_path / "a.h5", groups))
    assert (run.effort_to(0.01), run.effort_to(0.01, "rounds"), run.effort_to(1e-3)) == (7, 20, float("inf"))
    assert run.rounds_per_step() == 10


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
    run = rates(tmp_path / "a.h5", 50)
    assert run.samples_per_s() == pytest.approx(50.0)
    assert run.epoch_time() == pytest.approx(20.0)
    with pytest.raises(UserError, match=r"b\.h5.*no step"):
        Run(write_trace(tmp_path / "b.h5", {"steps": {"t_s": [], "samples": []}})).samples_per_s()


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([(0, "exchange", 1), (1, "exchange", 0), (0, "exchange", 3), (3, "exchange", 0), (2, "wait", -1)], 0.5),
        ([(0, "exchange", -1), (4, "exchange", 0), (1, "exchange", -1), (2, "exchange", -1)], 0.75),  # 4 is a server
        ([(0, "push", -1), (4, "exchange", 0)], None),
    ],
)
def test_exchanges_per_gradient(tmp_path, events, told):
    """Of four gradients: an averaging of two workers stands in both of their events, one with servers or with all
    neighbours in the worker's; what a server says of it counts for nothing."""
    rank, kind, peer = zip(*events, strict=True)
    columns = {"rank": rank, "kind": [schema.KIND[name] for name in kind], "peer": peer}
    run = write_trace(tmp_path / "a.h5", {"steps": {"rank": [0, 1, 2, 3]}, "events": columns}, n_workers=4)
    assert exchanges_per_gradient(Run(run)) == told


def test_time_by_rank(tmp_path):
    """Ten seconds. Rank 0 exchanges in a thread (1 to 4, 9 to 12) and in its loop (6 to 7), waits for tickets (4 to 5;
    the last one from 9.5 on) and writes a checkpoint. Rank 1 is of a synchronous program. Rank 2 is a server and has
    every kind of message."""
    happened = [
        (0, "compute", 0, 2, 0),
        (1, "compute", 0, 1, 0),
        (0, "exchange", 1, 4, 0),
        (1, "allreduce", 1, 4, 0),
        (0, "inject", 2, 3, 0),
        (2, "exchange", 2, 3, 0),
        (2, "push", 3, 4, 1),
        (2, "allreduce", 4, 4.5, 2),
        (0, "wait", 4, 5, 1),
        (1, "compute", 4, 6, 1),
        (2, "vote", 4.5, 5, 3),
        (0, "compute", 5, 6, 1),
        (0, "exchange", 6, 7, 1),
        (1, "vote", 6, 8, 1),
        (0, "exchange", 9, 12, 2),
        (0, "wait", 9.5, 9.75, 2),
        (0, "checkpoint", 9.8, 9.9, 2),
    ]
    rank, kind, start, end, step = zip(*happened, strict=True)
    kind = [schema.KIND[name] for name in kind]
    events = {"rank": rank, "kind": kind, "t_start_s": start, "t_end_s": end, "step": step}
    steps = {"rank": [1, 0, 0, 1], "compute_s": [1, 2, 1, 2], "injected_s": [0, 1, 0, 0], "wait_s": [3, 0, 2, 2]}
    about = {"n_workers": 2, "hostnames": ["host"] * 3, "wall_s": 10.0}
    run = Run(write_trace(tmp_path / "a.h5", {"steps": steps, "events": events}, **about))
    expected = {
        "compute": [3, 3, 0],
        "injected": [1, 0, 0],
        "wait": [2, 5, 0],
        "exchange": [4, 0, 3],  # of rank 0 three seconds, and one before the end
        "idle": [2, 2, 7],
    }
    spent = run.time_by_rank()
    assert list(spent) == list(expected)
    for name, seconds in expected.items():
        np.testing.assert_allclose(spent[name], seconds, rtol=0, atol=1e-12, err_msg=name)


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
