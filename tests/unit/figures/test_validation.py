"""Simulated runs beside real ones: what belongs together, and errors that are known beforehand."""

import numpy as np
import pytest
from drawn import assert_legible
from made_traces import write_trace

from outpace.benchmarks.figures import compose, page
from outpace.benchmarks.figures.validation import bound, error, gradient_s, pairs, step_s
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError


def made(path, step, steps=11, **attrs):
    """Two workers with steps so long, but for a last one that is twice as long; gradients are slept to 10 ms."""
    t_s = np.concatenate([step * np.arange(1, steps), [step * (steps + 1)]])
    columns = {"rank": np.tile([0, 1], steps), "step": np.repeat(np.arange(steps), 2), "t_s": np.repeat(t_s, 2)}
    return Run(write_trace(path, {"steps": columns | {"samples": np.ones(2 * steps)}}, n_workers=2, **attrs))


def test_errors(tmp_path):
    real = made(tmp_path / "real.h5", 0.1)
    simulated = made(tmp_path / "simulated.h5", 0.11, claim_class="simulated")
    ((found, predicted),) = pairs([real, simulated])
    assert (found, predicted) == ([real], [simulated])
    assert step_s(real) == pytest.approx(0.1)
    assert gradient_s(real) == pytest.approx(1.2 / 22)
    assert error((found, predicted), step_s) == pytest.approx(0.1)
    assert error((found, predicted), gradient_s) == pytest.approx(0.1)


def test_what_bounds_a_run(tmp_path):
    assert bound(made(tmp_path / "a.h5", 0.0149)) == "compute"
    assert bound(made(tmp_path / "b.h5", 0.0151)) == "communication"


def test_runs_of_other_links_and_programs_do_not_belong_together(tmp_path):
    settings = [(links, name) for links in ("none", "all:rate=20mbit") for name in ("d_psgd", "ad_psgd")]
    runs = []
    for number, (links, name) in enumerate(settings):
        for kind, step in (("emulated", 0.1), ("simulated", 0.1 * (1 + number / 10))):
            path = tmp_path / f"{kind}-{number}.h5"
            runs.append(made(path, step, links=links, algorithm=name, claim_class=kind))
    assert sorted(round(error(pair, step_s), 6) for pair in pairs(runs)) == [0.0, 0.1, 0.2, 0.3]
    figure = compose("validation", runs)
    assert_legible(figure)
    for panel in figure.axes:
        drawn = sorted(float(line.get_ydata()[0]) for line in panel.get_lines() if len(line.get_xdata()) == 1)
        assert drawn == pytest.approx([0, 10, 20, 30], abs=1e-6)


def test_machines_stand_together_and_the_error_is_what_is_drawn(tmp_path):
    settings = [("real", "none", {}), ("real", "all:rate=20mbit", {})]
    settings += [
        ("simulated", "none", {"hostnames": ["fast"] * 2}),
        ("simulated", "all:rate=20mbit", {"hostnames": ["slow"] * 2}),
    ]
    runs = []
    for number, (kind, links, about) in enumerate(settings):
        claim = {"claim_class": kind} if kind == "simulated" else {}
        runs.append(made(tmp_path / f"{number}.h5", 0.1, links=links, **claim, **about))
    stated = compose("validation", runs).get_suptitle().replace(page.NO_BREAK, " ").replace("\n", " ")
    assert stated.endswith("and simulated on fast, slow, 10 ms per 32 samples")


def test_what_is_refused(tmp_path):
    real = made(tmp_path / "real.h5", 0.1)
    alone = made(tmp_path / "alone.h5", 0.1, claim_class="simulated")
    short = made(tmp_path / "short.h5", 0.1, steps=1, claim_class="simulated")
    with pytest.raises(UserError, match=r"real\.h5: no simulated run beside it"):
        compose("validation", [real])
    with pytest.raises(UserError, match=r"alone\.h5: no real run beside it"):
        compose("validation", [alone])
    with pytest.raises(UserError, match=r"short\.h5: no two steps"):
        compose("validation", [real, short])
    with pytest.raises(UserError, match=r"alone\.h5 was simulated and .*real\.h5 was not"):
        compose("loss-time", [real, alone])
