"""What holds for all figures, over made traces whose numbers are known."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from drawn import assert_legible
from made_traces import SLOW, losses, simulate, write_trace
from matplotlib.text import Text

from outpace.benchmarks import figures
from outpace.benchmarks.figures import FIGURES, compose, draw, page
from outpace.benchmarks.trace import schema
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

WANTED = {
    "speed-up": "equal",
    "steps-rate": "equal",
    "splits": "4-equal",
    "batches": "allreduce_sgd-4-(equal|batch)",
    "step-sizes": "allreduce_sgd-4-(equal|step)",
    "bandwidth": "-4-(equal|linked)",
    "validation": "allreduce_sgd-4-(equal|simulated)",
}


def of_figure(name, traces):
    return [path for path in traces if re.search(WANTED.get(name, "-4-(equal|slow)"), path.name)]


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
    steps = {"t_s": [1, 2], "staleness": [0, 1], "rank": [0, 0], "compute_s": [1, 1], "injected_s": [0, 0]}
    events = {"rank": [0], "kind": [0], "t_start_s": [0.0], "t_end_s": [1.0]}
    evaluations = {"t_s": [0.0, 1.0], "loss": [2.0, 1.0]}
    path = tmp_path / "a.h5"
    groups = {"steps": steps, "events": events, "evaluations": evaluations}
    run = Run(write_trace(path, groups, problem=problem, stragglers=stragglers, status="partial"))
    for name in ("loss-time", "staleness", "timeline"):
        assert_legible(compose(name, [run]))


def test_no_word_of_a_caption_is_broken(tmp_path: Path) -> None:
    """A fact is kept on one line where it fits one, else broken between its words."""
    runs = [Run(simulate(tmp_path / "run.h5"))]
    note = "medians over the coordinates, bands of 50 and 90 % of them"
    lines = page.facts_of(runs, note, page.WIDTH).replace(page.NO_BREAK, " ").splitlines()
    assert note in " ".join(lines)
    assert max(map(len, lines)) <= page.LINE
    assert any("emulated: compute slept to 10 ms per 32 samples" in line for line in lines)


@pytest.mark.parametrize(("suffix", "start"), [(".pdf", b"%PDF"), (".svg", b"<?xml"), (".png", b"\x89PNG")])
def test_the_suffix_gives_the_format(tmp_path, traces, suffix, start):
    out = tmp_path / f"out{suffix}"
    draw("loss-time", traces[:1], out)
    assert out.read_bytes().startswith(start)
    if suffix == ".svg":  # text that can be searched
        assert ">time (s)</text>" in out.read_text()


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


def test_figures_need_rows(tmp_path):
    empty = {group: {name: [] for name in schema.GROUPS[group]} for group in ("evaluations", "steps", "events")}
    run = Run(write_trace(tmp_path / "empty.h5", empty))
    slow = Run(write_trace(tmp_path / "slow.h5", empty, stragglers=SLOW))
    for name in FIGURES:
        with pytest.raises(UserError, match=r"empty\.h5.*no |two or more numbers"):
            compose(name, [run, slow])


@pytest.mark.parametrize("name", ["timeline", "shares", "staleness", "noise", "heterogeneity", "loss-facets"])
def test_no_figure_is_taller_than_a_page(tmp_path, name):
    """Eleven curves would have a panel each."""
    runs = [Run(simulate(tmp_path / f"{k}.h5", steps=20, stragglers=f"fixed:rank=1,factor={k}")) for k in range(2, 13)]
    with pytest.raises(UserError, match=f"^{name}: 11 panels; at most 10: --where takes some of the traces$"):
        compose(name, runs)
    assert compose(name, runs[1:4]).get_figheight() < 6


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


def test_a_file_given_twice_is_one_run(tmp_path, traces):
    draw("loss-time", [traces[0], str(traces[0])], tmp_path / "a.svg")
    assert "medians" not in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize("backend", ["inline", "module://ipympl.backend_nbagg"])
def test_no_backend_of_the_users_is_asked_for(tmp_path, backend):
    """matplotlib reads MPLBACKEND once, on import, and refuses what it does not know."""
    trace = simulate(tmp_path / "run.h5")
    line = [sys.executable, "-m", "outpace.benchmarks.command", "plot", "loss-time", trace, "-o", tmp_path / "a.png"]
    done = subprocess.run(line, env=os.environ | {"MPLBACKEND": backend}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_figures_are_listed_without_docstrings():
    line = [sys.executable, "-OO", "-c", "from outpace.benchmarks import figures; print(*figures.describe())"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(FIGURES)


@pytest.mark.parametrize("name", ["cost in $", "a$b$", "$\\frac$", "\\$", "x^{2}$_$"])
def test_names_are_no_mathematics(tmp_path, name):
    run = Run(simulate(tmp_path / "run.h5", title=name, problem=f"libsvm:path={name}"))
    figure = compose("loss-time", [run])
    assert_legible(figure)
    assert name in figure.legends[0].get_texts()[0].get_text()
    assert not any(text.get_parse_math() for text in figure.findobj(Text) if name in text.get_text())


@pytest.mark.parametrize("servers", [1, 2])
def test_unequal_workers_by_servers_are_refused_with_the_ranks_that_make_them_equal(tmp_path, servers):
    """Four ranks of a_psgd have three workers, or two."""
    whole = losses(tmp_path / "a.h5", [1.0], algorithm="allreduce_sgd", hostnames=["a"] * 4)
    served = losses(tmp_path / "b.h5", [1.0], algorithm="a_psgd", n_workers=4 - servers, hostnames=["a"] * 4)
    for runs in ([whole, served], [served, whole]):
        with pytest.raises(UserError, match=f"differ in n_workers .*: -n {4 + servers} has 4 workers"):
            compose("loss-time", runs)
    other = losses(tmp_path / "c.h5", [1.0], n_workers=2, hostnames=["a"] * 2)
    with pytest.raises(UserError, match=r"one figure holds one; --group-by"):
        compose("loss-time", [whole, other])


def test_what_was_simulated_is_said_and_kept_apart(tmp_path):
    """Whatever the runs are grouped by; only the figure made for it sets both kinds beside one another."""
    about = {"hostnames": ["10gbit"] * 4, "stated_error": '{"compute-bound": "5 %"}'}
    predicted = losses(
        tmp_path / "a.h5", [1.0], claim_class="simulated", config={"wire_bytes": 1.02e8, "compute_time": 0.01}, **about
    )
    real = losses(tmp_path / "b.h5", [1.0], algorithm="d_psgd")
    stated = compose("loss-time", [predicted]).get_suptitle().replace(page.NO_BREAK, " ").replace("\n", " ")
    for fact in ("simulated on 10gbit, 10 ms per 32 samples", "as of a model of 102 MB", "error compute-bound 5 %"):
        assert fact in stated
    assert "slept" not in stated
    for by in ("", "claim_class"):
        with pytest.raises(UserError, match=r"a\.h5 was simulated and .*b\.h5 was not") as error:
            compose("loss-time", [predicted, real], by)
        assert "\n" not in str(error.value)
