"""Links in labels, titles and captions."""

import numpy as np
import pytest
from drawn import assert_legible, lines
from made_traces import SLOW, losses, rates, simulate

from outpace.benchmarks.figures import compose, links
from outpace.benchmarks.trace.run import Run
from outpace.benchmarks.trace.selection import chosen
from outpace.comm.errors import UserError

FAST, NARROW = "all:rate=1gbit", "all:rate=20mbit"
ONE = "fixed:rank=3,factor=10,others=1gbit"
SPECS = {
    "none": ("no links", np.inf),
    FAST: ("links of 1 Gbit/s", 1e9),
    "all:rate=8.5kbit,delay=5ms": ("links of 8.5 kbit/s, delay 5 ms", 8.5e3),
    ONE: ("link of rank 3 10× slower than 1 Gbit/s", 1e8),
    "fixed:rank=0+3,rate=100mbit": ("links of ranks 0, 3: 100 Mbit/s", 1e8),
    "fixed:rank=0,rate=1gbit,others=20mbit": ("link of rank 0: 1 Gbit/s, others: 20 Mbit/s", 2e7),
    "pairs:file=/a/b=c/racks.csv": ("links by racks.csv", 0),
    "pairs:file=racks.csv,default=1gbit": ("links by racks.csv, others: 1 Gbit/s", 0),
    "shared:rate=1gbit,share=0.1,period=2,fraction=0.5": ("shared links of 1 Gbit/s: 10 % of it for 1 of 2 s", 1e8),
    "of:a=later,version": ("of:a=later,version", 0),
}


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_in_words_and_its_slowest_rate(spec):
    words, slowest = SPECS[spec]
    assert links.in_words(spec) == words
    assert links.slowest(spec) == slowest


def of(tmp_path, **specs):
    return [losses(tmp_path / f"{name}.h5", [2.0, 1.0], links=spec) for name, spec in specs.items()]


def test_links_are_named_only_where_some_run_has_them(tmp_path):
    """As no run has any, all have the same, some have none."""
    figure = compose("loss-time", of(tmp_path, a="none"))
    assert list(lines(figure.axes[0])) == ["AD-PSGD"]
    assert "link" not in figure.get_suptitle()
    figure = compose("loss-time", of(tmp_path, a=FAST))
    assert list(lines(figure.axes[0])) == ["AD-PSGD"]
    assert "no stragglers; links of 1 Gbit/s" in figure.get_suptitle().replace("\u00a0", " ").replace("\n", " ")
    figure = compose("loss-time", of(tmp_path, a=NARROW, b="none", c=FAST))
    drawn = lines(figure.axes[0])
    assert list(drawn) == ["AD-PSGD, no links", "AD-PSGD, links of 1 Gbit/s", "AD-PSGD, links of 20 Mbit/s"]
    assert len({str(line._dash_pattern) for line in drawn.values()}) == 3
    assert drawn["AD-PSGD, no links"].get_linestyle() == "-"
    assert "link" not in figure.get_suptitle()
    assert "no stragglers" in figure.get_suptitle().replace("\u00a0", " ")


def test_stragglers_and_links_that_both_differ_are_both_in_the_label(tmp_path):
    runs = of(tmp_path, a=ONE, b="none")
    runs.append(losses(tmp_path / "c.h5", [2.0, 1.0], stragglers=SLOW))
    assert list(lines(compose("loss-time", runs).axes[0])) == [
        "AD-PSGD, no stragglers, no links",
        "AD-PSGD, no stragglers, link of rank 3 10× slower than 1 Gbit/s",
        "AD-PSGD, rank 1 slowed 10×, no links",
    ]


def test_a_trace_made_before_there_were_links_has_none(tmp_path):
    """It is a repetition of one that says so, and both are found by it."""
    old = losses(tmp_path / "old.h5", [2.0, 1.0])
    new = losses(tmp_path / "new.h5", [2.0, 3.0], links="none", config={"links": "none"}, seed=1)
    linked = losses(tmp_path / "linked.h5", [2.0, 3.0], links=FAST, config={"links": FAST})
    (median,) = lines(compose("loss-time", [old, new]).axes[0]).values()
    assert list(median.get_ydata()) == [2.0, 2.0]
    assert chosen([old, new, linked], ["links=none"]) == [old, new]
    with pytest.raises(UserError, match=r"links=all: no trace has it; among them: all:rate=1gbit, none"):
        chosen([old, linked], ["links=all"])


def test_what_one_curve_holds_has_the_same_links(tmp_path):
    """Of `epoch-time` a curve goes through several stragglers, and of `speed-up` through several numbers of workers."""
    slow = rates(tmp_path / "slow.h5", 50, stragglers=SLOW, links=FAST)
    with pytest.raises(UserError, match=r"differ in links \(none, all:rate=1gbit\): .*--where links=VALUE takes one"):
        compose("epoch-time", [rates(tmp_path / "a.h5", 90), slow])
    runs = [
        rates(tmp_path / f"{n}-{spec[:4]}.h5", rate, n_workers=n, links=spec)
        for spec, rate in (("none", 100), (FAST, 50))
        for n in (1, 4)
    ]
    labels = [label.partition(" (")[0] for label in lines(compose("speed-up", runs).axes[0])]
    assert labels == ["AD-PSGD, no links", "AD-PSGD, links of 1 Gbit/s"]
    with pytest.raises(UserError, match="AD-PSGD, links of 1 Gbit/s: needs runs with two or more"):
        compose("speed-up", runs[:3])


def test_long_words_of_links_are_wrapped(tmp_path):
    """In labels, titles of panels, captions and below an axis."""
    long = "fixed:rank=0+1+2+3+4+5+6+7+8+9+10+11+12+13+14+15,rate=100mbit,others=1gbit,delay=5ms"
    runs = [
        Run(simulate(tmp_path / f"{n}{algorithm}{k}.h5", algorithm, n, stragglers=SLOW, links=spec))
        for algorithm in ("allreduce_sgd", "d_psgd")
        for n in (2, 4)
        for k, spec in enumerate((long, "none"))
    ]
    four = [run for run in runs if run.attrs["n_workers"] == 4]
    for name in ("loss-time", "timeline", "shares"):
        assert_legible(compose(name, four))
        assert_legible(compose(name, four[:1]))
    for name in ("heterogeneity", "loss-facets", "splits", "steps-rate"):
        assert_legible(compose(name, runs))
