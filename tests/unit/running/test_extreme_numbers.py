"""Every number that a user can give has bounds; at them and beyond it is refused in one line, or works."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import numpy as np
import pytest
from mpi4py import MPI

from outpace.algorithms.svrg import EPOCH_LENGTHS
from outpace.benchmarks import problems
from outpace.benchmarks.problems import PROBLEMS, Setting, splits
from outpace.benchmarks.problems.splits import SPLITS
from outpace.benchmarks.running.plan import Launch, make_plan, parse_flags
from outpace.benchmarks.running.stragglers import STRAGGLERS, Delays
from outpace.benchmarks.running.stragglers import parse as stragglers
from outpace.benchmarks.sweeps.programs import config_of, programs
from outpace.comm import spec, topology
from outpace.comm.adversaries import ADVERSARY, adversaries
from outpace.comm.errors import UserError
from outpace.comm.prox import PROXES
from outpace.comm.prox import parse as prox
from outpace.comm.schedules import SCHEDULES, step_sizes
from outpace.comm.topology import TOPOLOGIES, mixing_matrices

EXTREMES = ("0", "-1", "-1e308", "1e-320", "1e-300", "1e-10", "1", "1e15", "1e18", "1e100", "1e308", "1e999")
EXTREMES += ("nan", "inf", str(2**53), str(2**63), str(2**64), "9" * 5000)
CATALOGUES = {
    "problem": PROBLEMS,
    "split": SPLITS,
    "stragglers": STRAGGLERS,
    "topology": TOPOLOGIES,
    "schedule": SCHEDULES,
    "prox": PROXES,
    "adversaries": ADVERSARY,
    "epoch-length": EPOCH_LENGTHS,
}
# Of keys that must be given beside the one that is tried.
GIVEN = {"dim": "3", "samples": "9", "path": "/nowhere", "data": "made", "rank": "0", "factor": "2", "p": "0.5"}
GIVEN |= {"sigma": "1", "alpha": "2", "ratio": "2", "degree": "2", "at": "1", "weight": "1", "radius": "1", "m": "2"}
OF_NETWORKS = {"model": "mlp", "data": "digits"}


def numbers(kind: type[Any]) -> Iterator[tuple[str, list[spec.Range]]]:
    """The fields of a dataclass that hold numbers, each with its ranges."""
    for name, hint in spec._hints(kind).items():
        base, bounds = spec._split(hint)
        if base in (int, float) or (get_origin(base) is tuple and _plain(get_args(base)[0]) in (int, float)):
            yield name, bounds


def _plain(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


KINDS = [Launch, *map(config_of, programs()), *(kind for of in CATALOGUES.values() for kind in of.values())]


def test_there_are_numbers() -> None:
    assert sum(len(list(numbers(kind))) for kind in KINDS) > 100


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_number_has_bounds(kind: type[Any]) -> None:
    for name, bounds in numbers(kind):
        low = max((max(bound.above, bound.least) for bound in bounds), default=-math.inf)
        high = min((min(bound.below, bound.most) for bound in bounds), default=math.inf)
        assert math.isfinite(low), name
        assert math.isfinite(high), name


def specs() -> Iterator[tuple[str, str, str]]:
    """(flag, SPEC without the value, key) for every number of every SPEC."""
    for flag, catalogue in CATALOGUES.items():
        for name, kind in catalogue.items():
            needed = [f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING]
            made = ["samples", "dim"] if {"data", "samples"} <= {f.name for f in dataclasses.fields(kind)} else []
            given = GIVEN | (OF_NETWORKS if name == "torch" else {})
            for key, _ in numbers(kind):
                others = [f"{other}={given[other]}" for other in [*needed, *made] if other != key]
                yield flag, f"{name}:{','.join([*others, key.replace('_', '-')])}", key


def tried(flag: str, text: str) -> None:
    """Use the SPEC as a run of four workers does."""
    if flag == "problem":
        for share in problems.build(text, Setting(MPI.COMM_SELF, range(4), 4, "iid", 0, "float64", np, 4)):
            x, g = share.x0(), share.x0()
            share.gradient(x, np.array([0, 1, 1, 0]), g)
            assert g.shape == (share.dim,)
    elif flag == "split":
        dealt = splits.deal(text, np.arange(40) % 4, 4, seed=0)
        assert sorted(np.concatenate(dealt)) == list(range(40))
    elif flag == "stragglers":
        delays = Delays(stragglers(text), 0, 0)
        assert all(0 <= delays.seconds(step, 0.005) < math.inf for step in range(2000))
    elif flag == "topology":
        W = functools.reduce(np.matmul, mixing_matrices(text, 4))
        np.testing.assert_allclose(W.sum(axis=1), 1)
        assert topology.spectral_gap(W) > 0
    elif flag == "schedule":
        gamma = step_sizes(text, 0.2, 17.0, 10**7)
        assert all(0 <= gamma(k) <= 0.2 for k in (0, 1, 17, 10**6))
    elif flag == "prox":
        v = np.array([1.0, -2.0, 1e-30])
        prox(text).apply(v, 0.1, np.empty(3))
        assert np.isfinite(v).all()
    elif flag == "adversaries":
        adversaries(text, 4)
    else:
        plan("svrg", "--epoch-length", text)


def plan(program: str, *flags: str) -> None:
    problem = [] if "--problem" in flags else ["--problem", "quadratic:dim=4"]
    made = make_plan(program, *parse_flags(program, config_of(program), [*flags, *problem]), 4)
    assert made.steps(10**12) is None or made.steps(10**12) >= 1


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # as in a run: what is not finite is found where it arises
@pytest.mark.parametrize(("flag", "text", "key"), list(specs()))
def test_specs_at_extremes(flag: str, text: str, key: str) -> None:
    """Nothing is allocated for sizes that no machine has; whatever is accepted works."""
    refused = []
    for value in EXTREMES:
        try:
            tried(flag, f"{text}={value}")
        except UserError as error:
            refused.append(str(error))
    assert len(refused) >= 4
    assert not any("\n" in line for line in refused)


@pytest.mark.parametrize("program", programs())
def test_flags_at_extremes(program: str) -> None:
    """Whatever is in its range makes a plan, with a number of steps."""
    config, launch = parse_flags(program, config_of(program), ["--problem", "quadratic:dim=4"])
    values = (0, -1, 1, 10**15, 2**53, 2**63, 2**64, 1e-320, 1e-300, 1e-10, 1e100, 1e308, math.inf, math.nan)
    tries = [(dataclasses.replace(config, **{name: v}), launch) for name, _ in numbers(type(config)) for v in values]
    tries += [(config, dataclasses.replace(launch, **{name: v})) for name, _ in numbers(Launch) for v in values]
    refused = []
    for one_config, one_launch in tries:
        try:
            spec.check(one_config)
            spec.check(one_launch)
            made = make_plan(program, one_config, one_launch, 4)
        except UserError as error:
            refused.append(str(error))
        else:
            assert made.steps(10**12) is None or made.steps(10**12) >= 1
    assert 50 < len(refused) < len(tries)
    assert not any("\n" in line for line in refused)


@pytest.mark.parametrize("value", ["1e308", "1e999", "9" * 5000, "nan", "-1", "many"])
@pytest.mark.parametrize("flag", ["--epochs", "--batch-size", "--evaluations", "--seed"])
def test_flags_as_they_are_typed(flag: str, value: str) -> None:
    with pytest.raises((UserError, SystemExit)) as refused:
        plan("d_psgd", flag, value)
    assert isinstance(refused.value, UserError) or refused.value.code == 2
    assert "\n" not in str(refused.value)


def test_a_batch_counts() -> None:
    setting = Setting(MPI.COMM_SELF, [0], 1, "iid", 0, "float64", np, batch_size=10**15)
    with pytest.raises(UserError, match=r"--problem quadratic:dim=4: it needs about 8 PB of memory; .* are available"):
        problems.build("quadratic:dim=4", setting)


@pytest.mark.parametrize("text", ["labels:classes=2", "labels:classes=1"])
def test_what_a_split_refuses_is_found_without_data(text: str) -> None:
    """The smallest number that suffices is said before a job is queued."""
    with pytest.raises(UserError, match=r"with 4 workers it must be at least 3, or some of the 10 labels"):
        plan("ad_psgd", "--split", text, "--problem", "digits")
    plan("ad_psgd", "--split", "labels:classes=3", "--problem", "digits")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--problem", "quadratic:dim=4,samples=3"], "4 workers are too many for 3 samples"),
        (["--problem", "quadratic:dim=4", "--split", "labels"], "has no labels; take iid or size"),
        (["--problem", "logistic:samples=9,dim=2", "--split", "labels:classes=3"], "the data has 2 labels"),
    ],
)
def test_more_that_is_found_without_data(flags: list[str], says: str) -> None:
    config, launch = parse_flags("d_psgd", config_of("d_psgd"), flags)
    with pytest.raises(UserError, match=says):
        make_plan("d_psgd", config, launch, 4)
