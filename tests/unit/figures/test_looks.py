"""Colours, markers and dashes."""

from drawn import lines
from made_traces import losses

from outpace.benchmarks.figures import compose, looks
from outpace.benchmarks.trace import titles_before
from outpace.benchmarks.trace.run import Run


def test_programs_and_stragglers_can_be_told_apart_everywhere(tmp_path, traces):
    assert looks.PALETTE.keys() >= titles_before.TITLES.keys()
    everything = *looks.PALETTE.values(), *looks.VARIANTS.values()
    for each in zip(*everything, strict=True):
        assert len(set(each)) == len(everything)  # each colour once, each marker once
    both = lines(
        compose("loss-time", [Run(path) for path in traces if path.name.endswith(("-4-equal.h5", "-4-slow.h5"))]).axes[
            0
        ]
    )
    alone = lines(compose("loss-time", [Run(traces[-2])]).axes[0])["AD-PSGD"]
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
