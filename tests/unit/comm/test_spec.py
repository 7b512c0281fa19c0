"""The SPEC parser: forms, ranges, and texts that read back as what they were made of."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.comm.errors import UserError
from outpace.comm.spec import Factor, NonNegativeInt, PositiveInt, Range, Seed, check, parse, render


@dataclass(frozen=True, kw_only=True)
class Empty:
    pass


@dataclass(frozen=True, kw_only=True)
class Full:
    dim: PositiveInt
    rank: tuple[NonNegativeInt, ...] = (0,)
    width: Annotated[tuple[int, ...], Range(least=1)] | None = None
    factor: Factor = 2.0
    path: str = "data"
    penalty: Literal["l2", "nonconvex"] = "l2"
    seed: Seed = 0


CATALOGUE = {"empty": Empty, "full": Full}


def read(text):
    return parse(text, CATALOGUE, "--thing")


def test_values_are_read_by_their_type():
    expected = Full(dim=1000, rank=(0, 3), width=(8, 4), factor=10.0, path="a=b:c", penalty="nonconvex", seed=7)
    assert read("full:dim=1e3,rank=0+3,width=8+4,factor=10,path=a=b:c,penalty=nonconvex,seed=7") == expected
    assert read("full:dim=5") == Full(dim=5)
    assert read("empty") == read("empty:") == Empty()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "--thing: unknown name ''; allowed: empty, full"),
        ("Full:dim=1", "unknown name 'Full'"),
        ("full", "--thing full: needs dim="),
        ("full:size=1", "unknown key 'size'; allowed: dim, rank"),
        ("empty:size=1", "unknown key 'size'; allowed: none"),
        ("full:dim", "'dim' is not of the form key=value"),
        ("full:dim=", "'dim=' is not of the form key=value"),
        ("full:dim=1,dim=2", "key 'dim' given twice"),
        ("full:dim=1.5", "dim is '1.5', not a whole number"),
        ("full:dim=inf", "dim is 'inf', not a whole number"),
        ("full:dim=nan", "dim is 'nan', not a whole number"),
        ("full:dim=one", "dim is 'one', not a whole number"),
        ("full:dim=1,factor=x", "factor is 'x', not a number"),
        ("full:dim=1,rank=0+", "rank is '', not a whole number"),
        ("full:dim=0", "--thing full: dim is 0; it must be at least 1"),
        ("full:dim=1,factor=inf", "factor is inf; it must be finite"),
        ("full:dim=1,factor=nan", "factor is nan; it must be finite"),
        ("full:dim=1,factor=0.99999999", "factor is 0.99999999; it must be at least 1"),
        ("full:dim=1,rank=0+-1", "rank is -1; it must be at least 0"),
        ("full:dim=1,width=4+0", "width is 0; it must be at least 1"),
        ("full:dim=1,seed=4294967296", "seed is 4294967296; it must be at least 0 and at most 4294967295"),
        ("full:dim=1,penalty=l1", "penalty is 'l1'; allowed: l2, nonconvex"),
    ],
)
def test_bad_specs_name_value_and_rule(text, reason):
    with pytest.raises(UserError) as raised:
        read(text)
    assert reason in str(raised.value)


@given(
    st.builds(
        Full,
        dim=st.integers(1, 2**53),
        rank=st.lists(st.integers(0, 10**6), min_size=1).map(tuple),
        width=st.none() | st.lists(st.integers(1, 99), min_size=1).map(tuple),
        factor=st.floats(1, 1e15),
        seed=st.integers(0, 2**32 - 1),
    )
)
def test_rendered_spec_reads_back_exactly(spec):
    assert read(render(spec, CATALOGUE)) == spec


def test_render_writes_defaults_out_and_whole_numbers_short():
    assert render(read("full:dim=1e3"), CATALOGUE) == "full:dim=1000,rank=0,factor=2,path=data,penalty=l2,seed=0"
    assert render(Empty(), CATALOGUE) == "empty"


def test_flags_are_named_as_flags():
    @dataclass(frozen=True)
    class Config:
        step_size: Annotated[float, Range(above=0)] = 0.1

    check(Config())
    with pytest.raises(UserError, match=r"^--step-size is -1; it must be more than 0$"):
        check(Config(step_size=-1.0))


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        (Range(), "finite"),
        (Range(above=0, most=1), "more than 0 and at most 1"),
        (Range(least=0.25), "at least 0.25"),
        (Range(most=10_000_001), "at most 10000001"),
    ],
)
def test_range_in_words(bounds, text):
    assert str(bounds) == text
