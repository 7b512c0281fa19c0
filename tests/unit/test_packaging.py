"""What is there to cite, package and review the project: parsed, and the same as setup.cfg says."""

import ast
import configparser
import re
import subprocess
from pathlib import Path

import rooms
import yaml

from outpace.benchmarks.machine.version import VERSION

SETUP = configparser.ConfigParser()
SETUP.read(rooms.ROOT / "setup.cfg")
RECIPE = rooms.ROOT / "packaging" / "spack" / "packages" / "py_outpace" / "package.py"
DEFINITION = rooms.ROOT / "packaging" / "outpace.def"


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((rooms.ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()  # what version 1.2.0 of the format requires
    assert cited["cff-version"] == "1.2.0"
    metadata = SETUP["metadata"]
    assert cited["title"] == f"OutPace: {metadata['description'][0].lower()}{metadata['description'][1:]}"
    assert str(cited["version"]) == VERSION
    assert cited["license"] == metadata["license"]
    assert all({"name"} == author.keys() for author in cited["authors"])


def calls(name: str) -> list[str]:
    """The first argument of every such call in the recipe."""
    found = [node for node in ast.walk(ast.parse(RECIPE.read_text())) if isinstance(node, ast.Call)]
    return [
        ast.literal_eval(call.args[0]) for call in found if isinstance(call.func, ast.Name) and call.func.id == name
    ]


def test_the_recipe_depends_on_what_setup_cfg_does() -> None:
    wanted = {"python": SETUP["options"]["python_requires"].removeprefix(">=") + ":", "mpi": ""}
    for line in SETUP["options"]["install_requires"].split():
        name, least, below = re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,<(\d+))?", line).groups()  # type: ignore[union-attr]
        wanted[f"py-{name}"] = f"{least}:{int(below) - 1 if below else ''}"
    needed = {name: version for name, _, version in (text.partition("@") for text in calls("depends_on"))}
    assert {name: version for name, version in needed.items() if name in wanted} == wanted
    assert needed.keys() - wanted.keys() == {"py-setuptools", "py-pyarrow"}
    assert calls("version") == [VERSION]
    assert yaml.safe_load((RECIPE.parents[2] / "repo.yaml").read_text())["repo"]["namespace"] == "outpace"


def sections() -> dict[str, str]:
    parts = re.split(r"^%(\w+)$", DEFINITION.read_text(), flags=re.MULTILINE)
    return {"header": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def test_the_definition_has_sections_that_a_shell_accepts() -> None:
    found = sections()
    assert found.keys() == {"header", "files", "post", "environment", "runscript", "test", "help"}
    assert re.match(r"Bootstrap: docker\nFrom: python:3\.\d+-slim\n", found["header"])
    for name in ("post", "environment", "runscript", "test"):
        subprocess.run(["bash", "-n"], input=found[name], text=True, check=True)


def test_the_definition_copies_what_is_installed() -> None:
    copied = {Path(line.split()[0]) for line in sections()["files"].strip().splitlines()}
    assert all((rooms.ROOT / path).exists() for path in copied)
    folders = {Path(line.split("=")[1].strip()) for line in SETUP["options"]["package_dir"].strip().splitlines()}
    assert folders <= copied
    extras = re.search(r"outpace\[([\w,]+)\]", sections()["post"])
    assert extras
    assert set(extras[1].split(",")) <= SETUP["options.extras_require"].keys()
