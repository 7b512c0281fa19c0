"""Every program says its own title, and every variant that people know by a name of its own says that."""

import dataclasses
import itertools
import typing

import pytest

from outpace.benchmarks.sweeps.programs import config_of, programs
from outpace.benchmarks.trace import titles_before


@pytest.mark.parametrize("program", sorted(titles_before.TITLES))
def test_titles_are_those_of_traces_from_before(program: str) -> None:
    Config = config_of(program)
    hints = typing.get_type_hints(Config)
    choices = {key: typing.get_args(hint) for key, hint in hints.items() if typing.get_origin(hint) is typing.Literal}
    for values in itertools.product(*choices.values()):
        config = Config(**dict(zip(choices, values, strict=True)))
        assert config.title == titles_before.of(program, dataclasses.asdict(config))  # type: ignore[call-overload]


def test_every_program_has_a_title_of_its_own() -> None:
    titles = [config_of(program)().title for program in programs()]
    assert all(titles)
    assert len(set(titles)) == len(titles)
