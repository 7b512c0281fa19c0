"""Every program says its own title, and every variant that people know by a name of its own says that."""

import dataclasses
from typing import Any

import pytest

from outpace.benchmarks.sweeps.programs import config_of, programs
from outpace.benchmarks.trace import titles_before

FLAGS: list[tuple[str, dict[str, Any]]] = [
    *((program, {}) for program in titles_before.TITLES),
    *((program, {flag: value}) for program, flag, value in titles_before.VARIANTS),
    ("sign_sgd", {"variant": "signum", "vote": "none"}),
    ("katyusha_x", {"variant": "w", "sampling": "stratified"}),
]


@pytest.mark.parametrize(("program", "flags"), FLAGS)
def test_titles_are_those_of_traces_from_before(program: str, flags: dict[str, Any]) -> None:
    """So that runs from before and after are one program in a figure."""
    config: Any = config_of(program)(**flags)
    assert config.title == titles_before.of(program, dataclasses.asdict(config))


def test_every_program_has_a_title_of_its_own() -> None:
    titles = [config_of(program)().title for program in programs()]
    assert all(titles)
    assert len(set(titles)) == len(titles)
