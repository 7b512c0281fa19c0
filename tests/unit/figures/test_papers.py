"""Figures as papers want them: a column's width, embedded fonts, a legend elsewhere, the numbers beside."""

import csv
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from drawn import assert_legible, lines
from made_traces import SLOW, losses, simulate

from outpace.benchmarks.command import main
from outpace.benchmarks.figures import compose, draw
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

COLUMN = 3.3  # inches


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("papers")
    programs = ("allreduce_sgd", "d_psgd", "ad_psgd")
    return [
        Run(simulate(folder / f"{program}-{k}.h5", program, stragglers=level, steps=40))
        for program in programs
        for k, level in enumerate(("none", SLOW))
    ]


@pytest.mark.parametrize("name", ["loss-time", "epoch-time", "timeline", "staleness", "shares", "splits", "noise"])
def test_a_figure_of_a_column_is_legible(runs, name):
    figure = compose(name, runs, width=COLUMN)
    assert figure.get_figwidth() == COLUMN
    assert_legible(figure)


def test_panels_side_by_side_need_room(runs):
    with pytest.raises(UserError, match=r"heterogeneity: --width is 3\.3; side by side .* at least 5\.6 inches"):
        compose("heterogeneity", runs, width=COLUMN)
    assert compose("heterogeneity", runs, width=6.5).get_figwidth() == 6.5
    with pytest.raises(UserError, match=r"--width is 1; it must be from 2\.8 to 20 inches"):
        compose("loss-time", runs, width=1)


def test_fonts_of_a_pdf_are_whole(runs, tmp_path):
    """Journals refuse Type 3 fonts."""
    out = tmp_path / "figure"
    draw("loss-time", [run.path for run in runs], out, form="pdf")
    pdf = out.read_bytes()
    for packed in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL):
        try:
            pdf += zlib.decompress(packed)
        except zlib.error:
            continue
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf


def test_the_legend_is_where_it_is_wanted(runs):
    outside, inside, none = (compose("loss-time", runs, legend=place) for place in ("outside", "inside", "none"))
    entries = [text.get_text() for text in outside.legends[0].get_texts()]
    assert not inside.legends
    assert not none.legends
    assert none.axes[0].get_legend() is None
    within = [" ".join(text.get_text().split()) for text in inside.axes[0].get_legend().get_texts()]
    assert within == [" ".join(entry.split()) for entry in entries]
    assert inside.get_figheight() < outside.get_figheight()


def test_what_all_curves_share_is_in_the_caption_alone(tmp_path):
    both = [losses(tmp_path / f"{name}.h5", [2.0, 1.0], algorithm=name) for name in ("d_psgd", "ad_psgd")]
    figure = compose("loss-time", both)
    assert list(lines(figure.axes[0])) == ["D-PSGD", "AD-PSGD"]
    assert "no stragglers" in figure.get_suptitle().replace("\u00a0", " ")


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_numbers_behind_a_figure_are_those_drawn(runs, tmp_path):
    data = tmp_path / "numbers.csv"
    draw("loss-time", [run.path for run in runs], tmp_path / "a.png", data=data)
    rows = rows_of(data)
    run = runs[1]
    own = [row for row in rows if row["label"] == "AllReduce-SGD, rank 1 slowed 10×"]
    assert [float(row["x"]) for row in own] == pytest.approx(run.column("evaluations", "t_s"))
    assert [float(row["y"]) for row in own] == pytest.approx(run.column("evaluations", "loss"))
    assert {row["x_axis"] for row in rows} == {"time (s), linear up to 0.05"} or {
        row["x_axis"][:8] for row in rows
    } == {"time (s)"}
    draw("timeline", [run.path], tmp_path / "a.png", data=data)
    bars = [row for row in rows_of(data) if row["label"] == "delayed by injection"]
    assert {round((float(row["y"]) + float(row["y_end"])) / 2) for row in bars} == {1}
    assert all(float(row["x"]) < float(row["x_end"]) for row in bars)
    draw("staleness", [runs[4].path], tmp_path / "a.png", data=data)
    steps = [row for row in rows_of(data) if row["kind"] == "step"]
    edges = np.array([float(row["x"]) for row in steps])
    assert {0.5, 1.5} <= set(edges)


def test_the_command_draws_all_of_it(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    files = [str(run.path) for run in runs]
    flags = ["--width", "3.3", "--format", "svg", "--legend", "none", "--data", "numbers.csv"]
    assert main(["plot", "loss-time", *files, *flags]) == 0
    assert capsys.readouterr().out == "wrote loss-time.svg and numbers.csv\n"
    width = re.search(r'width="([\d.]+)pt"', Path("loss-time.svg").read_text())
    assert float(width[1]) == pytest.approx(72 * COLUMN, abs=0.5)
