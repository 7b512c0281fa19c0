"""Stragglers: distributions against SciPy's, delays as functions of (seed, rank, step), replay of a trace."""

import timeit

import h5py
import made_traces
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from outpace.benchmarks.running.stragglers import Delays, canonical, check_ranks, parse
from outpace.comm import streams
from outpace.comm.errors import UserError

DRAWN = ["random:p=0.3,factor=4", "exponential:scale=2", "lognormal:sigma=0.5", "pareto:alpha=2.5"]


def factors(text, steps=8192, seed=0, rank=0):
    delays = Delays(parse(text), seed, rank)
    return 1 + np.array([delays.seconds(step, 1.0) for step in range(steps)])


def write_trace(path, rows):
    """A trace with the given (rank, step, compute_s, injected_s)."""
    ranks, steps, compute_s, injected_s = np.array(rows, dtype=float).reshape(-1, 4).T
    columns = {"rank": ranks, "step": steps, "compute_s": compute_s, "injected_s": injected_s}
    return f"trace:file={made_traces.write_trace(path, {'steps': columns})}"


# Distributions: Kolmogorov-Smirnov at 1e-3 (8192 steps, seed fixed), and no step faster than at full speed.


@pytest.mark.parametrize(
    ("text", "distribution"),
    [
        ("exponential", stats.expon(loc=1)),
        ("exponential:scale=2", stats.expon(loc=1, scale=2)),
        ("pareto:alpha=2.5", stats.pareto(2.5)),
        ("pareto:alpha=1.2", stats.pareto(1.2)),
    ],
)
def test_factors_follow_their_distribution(text, distribution):
    drawn = factors(text)
    assert drawn.min() >= 1
    assert stats.kstest(drawn, distribution.cdf).pvalue > 1e-3


def test_lognormal_factor_is_the_upper_half():
    drawn = factors("lognormal:sigma=0.5")
    assert drawn.min() >= 1
    assert stats.kstest(np.log(drawn), stats.halfnorm(scale=0.5).cdf).pvalue > 1e-3
    assert np.median(drawn) == pytest.approx(np.exp(0.6745 * 0.5), rel=0.02)  # the docstring's 0.674


def test_means_in_closed_form():
    """Within four standard errors of the mean."""
    for text, distribution in [
        ("exponential:scale=2", stats.expon(1, 2)),
        ("pareto:alpha=3.5", stats.pareto(3.5)),
    ]:
        drawn = factors(text)
        assert abs(drawn.mean() - distribution.mean()) < 4 * distribution.std() / np.sqrt(len(drawn))


def test_random_slows_a_share_p_of_the_steps():
    drawn = factors("random:p=0.3,factor=4")
    assert set(drawn) == {1.0, 4.0}
    slow = int((drawn == 4).sum())
    assert stats.binomtest(slow, len(drawn), 0.3).pvalue > 1e-3
    assert set(factors("random:p=1,factor=4", steps=300)) == {4.0}


@pytest.mark.parametrize("text", DRAWN)
def test_steps_are_independent(text):
    """Neighbouring steps, and equal places of neighbouring blocks, have uncorrelated ranks (4 deviations)."""
    order = stats.rankdata(factors(text))
    for lag in (1, 256):
        correlation = np.corrcoef(order[lag:], order[:-lag])[0, 1]
        assert abs(correlation) < 4 / np.sqrt(len(order) - lag)


# The same delays for everybody, and different ones where they should be.


@settings(deadline=None, max_examples=40)
@given(
    text=st.sampled_from(DRAWN),
    seed=st.integers(0, 2**32 - 1),
    rank=st.integers(0, 1000),
    steps=st.lists(st.integers(0, 2000), min_size=1, max_size=20),
)
def test_delays_do_not_depend_on_the_order(text, seed, rank, steps):
    delays = Delays(parse(text), seed, rank)
    alone = [Delays(parse(text), seed, rank).seconds(step, 0.25) for step in steps]
    assert [delays.seconds(step, 0.25) for step in steps] == alone


@pytest.mark.parametrize("text", DRAWN)
def test_ranks_and_seeds_have_their_own_delays(text):
    drawn = {tuple(factors(text, 300, seed, rank)) for seed, rank in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]}
    assert len(drawn) == 5


def test_purposes_are_apart():
    """DELAYS is no other purpose's number, and no purpose is 0, which a shorter list would be padded with."""
    purposes = [number for name, number in vars(streams).items() if name.isupper()]
    assert len(set(purposes)) == len(purposes)
    assert min(purposes) > 0


# What is injected.


def test_nothing_is_injected_at_full_speed():
    for text in ["none", "fixed:rank=0,factor=1", "random:p=1,factor=1", "fixed:rank=1+2,factor=10"]:
        delays = Delays(parse(text), seed=0, rank=0)
        assert [delays.seconds(step, 0.1) for step in range(600)] == [0.0] * 600


@pytest.mark.parametrize("text", ["fixed:rank=3,factor=10", "fixed:rank=0+3+5,factor=10"])
def test_fixed_slows_its_workers_in_every_step(text):
    stragglers = parse(text)
    for rank in range(8):
        delays = Delays(stragglers, seed=0, rank=rank)
        expected = 0.9 if rank in stragglers.rank else 0.0
        assert [delays.seconds(step, 0.1) for step in (0, 1, 255, 256, 10**6)] == pytest.approx([expected] * 5)


@pytest.mark.parametrize("text", DRAWN)
def test_delay_is_proportional_to_the_compute_time(text):
    delays = Delays(parse(text), seed=3, rank=2)
    for step in range(20):
        one = delays.seconds(step, 1.0)
        assert delays.seconds(step, 0.02) == pytest.approx(0.02 * one)
        assert delays.seconds(step, 0.02, share=2.5) == pytest.approx(0.05 * one)


@pytest.mark.parametrize("text", [*DRAWN, "none", "fixed:rank=0,factor=2"])
def test_a_call_is_cheap(text):
    delays = Delays(parse(text), seed=0, rank=0)
    steps = iter(range(10**6))
    assert min(timeit.repeat(lambda: delays.seconds(next(steps), 0.01), number=2000, repeat=3)) / 2000 < 20e-6


# Replay.


def test_replay_fills_up_to_the_recorded_time(tmp_path):
    rows = [(0, 0, 0.1, 0.0), (1, 2, 0.3, 0.0), (1, 0, 0.1, 0.4), (0, 1, 0.2, 0.0), (1, 1, 0.2, 0.0)]
    stragglers = parse(write_trace(tmp_path / "run.h5", rows))
    check_ranks(stragglers, 2)
    delays = Delays(stragglers, seed=0, rank=1)
    expected = [0.35, 0.05, 0.15]  # recorded 0.5, 0.2, 0.3 less 0.15
    assert [delays.seconds(step, 0.15) for step in range(7)] == pytest.approx((expected * 3)[:7])
    assert delays.seconds(0, 0.15, share=2) == pytest.approx(0.7)
    assert delays.seconds(1, 0.25) == 0.0  # slower than recorded without any delay
    assert Delays(stragglers, seed=9, rank=0).seconds(1, 0.15) == pytest.approx(0.05)


def test_replay_reads_the_trace_once(tmp_path):
    path = tmp_path / "run.h5"
    delays = Delays(parse(write_trace(path, [(0, 0, 0.1, 0.2)])), seed=0, rank=0)
    path.unlink()
    assert delays.seconds(5, 0.1) == pytest.approx(0.2)


def test_replay_needs_a_trace_of_enough_workers(tmp_path):
    text = write_trace(tmp_path / "run.h5", [(0, 0, 0.1, 0.0), (1, 0, 0.1, 0.0), (3, 0, 0.1, 0.0)])
    with pytest.raises(UserError, match=r"run\.h5 has no steps of worker 2; 4 workers need"):
        check_ranks(parse(text), 4)
    with pytest.raises(UserError, match=r"run\.h5 has no steps of worker 2"):
        Delays(parse(text), seed=0, rank=2)
    with pytest.raises(UserError, match="no steps of worker 0"):
        check_ranks(parse(write_trace(tmp_path / "empty.h5", [])), 1)


def test_replay_refuses_what_is_no_trace(tmp_path):
    (tmp_path / "notes.txt").write_text("no HDF5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros(3)
    for name, reason in [("none.h5", "no such file"), ("notes.txt", "HDF5"), ("other.h5", "not a trace")]:
        with pytest.raises(UserError, match=f"{name}: .*{reason}"):
            check_ranks(parse(f"trace:file={tmp_path}/{name}"), 2)


# SPECs.


def test_fixed_rank_must_exist():
    stragglers = parse("fixed:rank=1+9,factor=2")
    check_ranks(stragglers, 10)
    with pytest.raises(UserError, match="rank is 9; it must be at most 7"):
        check_ranks(stragglers, 8)
    for text in ["none", *DRAWN]:
        check_ranks(parse(text), 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("slow", "unknown name 'slow'; allowed: none, fixed, random"),
        ("fixed:rank=0", "needs factor="),
        ("fixed:rank=-1,factor=2", "rank is -1; it must be at least 0"),
        ("fixed:rank=0,factor=0", "factor is 0; it must be at least 1"),
        ("fixed:rank=0,factor=inf", "factor is inf; it must be finite"),
        ("random:p=0,factor=2", "p is 0"),
        ("random:p=1.5,factor=2", "p is 1.5; it must be more than 0 and at most 1"),
        ("exponential:scale=0", "scale is 0"),
        ("lognormal", "needs sigma="),
        ("pareto:alpha=1", "alpha is 1; it must be more than 1"),
        ("none:p=1", "unknown key 'p'; allowed: none"),
    ],
)
def test_bad_specs_are_refused(text, reason):
    with pytest.raises(UserError, match=f"--stragglers.*{reason}"):
        parse(text)


def test_canonical_writes_the_defaults_out():
    assert canonical("none") == "none"
    assert canonical("fixed:factor=10,rank=0+3") == "fixed:rank=0+3,factor=10"
    assert canonical("exponential:") == canonical("exponential:scale=1.0") == "exponential:scale=1"
    assert canonical("trace:file=a=b:c.h5") == "trace:file=a=b:c.h5"
