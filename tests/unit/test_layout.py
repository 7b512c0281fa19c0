"""The rules of the layout, read from the sources: who may import whom, what a program may touch, what is packaged."""

import configparser
import re
from pathlib import Path

import pytest
import rooms

from outpace.benchmarks.conformance import rules

SOURCES = rooms.sources()
PROGRAMS = [path for name, path in SOURCES.items() if name.startswith("outpace.algorithms.")]
SENDING = [  # what programs send by
    SOURCES["outpace.benchmarks.problems.applications"],
    *(SOURCES[f"outpace.comm.{name}"] for name in ("outcomes", "server", "vote")),
]
FLOORS = (
    ("comm", "jobscripts"),
    ("config", "trace", "machine", "problems"),
    ("running", "figures", "explaining"),
    ("program", "reports", "history", "simulating"),
    ("algorithms",),
    ("sweeps", "studies", "micro", "micro_sign", "micro_step", "conformance", "calibration"),
    ("claims",),
    ("command",),
)
FLOOR = {room: floor for floor, of_floor in enumerate(FLOORS) for room in of_floor}
APART = {"config", "trace", "machine", "problems"}  # rooms of one floor that know nothing of one another
MOST_LINES = 350
MOST_OF_A_CLASS = 200
BETWEEN_PROGRAMS = {("katyusha_x", "svrg")}  # the one import between programs


def test_every_room_has_a_floor() -> None:
    assert {rooms.room(name) for name, path in SOURCES.items() if path.read_text().count("\n") > 1} <= FLOOR.keys()


def test_the_documents_have_these_floors() -> None:
    """The picture in architecture.md, from above, and the line in CONTRIBUTING.md, from below."""
    picture = (rooms.ROOT / "docs" / "architecture.md").read_text().partition("```\n")[2].partition("\n```")[0]
    line = (rooms.ROOT / "CONTRIBUTING.md").read_text().partition("\n    ")[2].partition("\n\n")[0]
    assert tuple(tuple(floor.split()) for floor in re.split(r"\n-+\n", picture)[::-1]) == FLOORS
    assert tuple(tuple(floor.replace(",", " ").split()) for floor in line.split("<")) == FLOORS


def test_no_import_runs_upward() -> None:
    """Names taken from a package included: `from outpace import algorithms`."""
    for here, there in sorted(rooms.arrows()):
        assert FLOOR[there] <= FLOOR[here], f"{here} imports {there}, from a floor above"
        assert not {here, there} <= APART, f"{here} imports {there}"


def test_no_import_runs_in_a_circle() -> None:
    for needs in (rooms.imports(), _of_rooms(rooms.arrows())):
        done: set[str] = set()
        while ready := {name for name, others in needs.items() if name not in done and others <= done}:
            done |= ready
        assert done == needs.keys()


def _of_rooms(arrows: set[tuple[str, str]]) -> dict[str, set[str]]:
    return {room: {there for here, there in arrows if here == room} for room in FLOOR}


def test_programs_do_not_import_each_other() -> None:
    for name, others in rooms.imports().items():
        for other in others:
            if name.startswith("outpace.algorithms.") and other.startswith("outpace.algorithms."):
                assert (name.rpartition(".")[2], other.rpartition(".")[2]) in BETWEEN_PROGRAMS


@pytest.mark.parametrize("path", [*PROGRAMS, *SENDING], ids=lambda path: path.stem)
def test_a_program_touches_only_its_communicator(path: Path) -> None:
    rules.touches_only_its_communicator(path.read_text())


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_reads_like_one(path: Path) -> None:
    rules.reads_like_a_program(path.read_text())


def test_files_and_classes_can_be_read_in_one_sitting() -> None:
    for path in (rooms.ROOT / "benchmarks").rglob("*.py"):
        assert path.read_text().count("\n") <= MOST_LINES, path
        assert rooms.longest_class(path) <= MOST_OF_A_CLASS, path


def test_every_folder_with_code_is_packaged() -> None:
    config = configparser.ConfigParser()
    config.read(rooms.ROOT / "setup.cfg")
    packages = set(config["options"]["packages"].split())
    folders = {".".join(("outpace", *path.parent.relative_to(rooms.ROOT).parts)) for path in SOURCES.values()}
    assert packages == folders
    for folder in folders:
        here = rooms.ROOT.joinpath(*folder.split(".")[1:])
        assert (here / "__init__.py").exists()
        assert (here / "py.typed").exists()
