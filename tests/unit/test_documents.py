"""The documents: links and paths exist, command lines and SPECs are real, code runs, nothing is missing from a list."""

import functools
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from documents import DOCUMENTS, FENCE, FOLDERS, ROOT, in_blocks, sources_of_programs, text_of, words_of
from mpi4py import MPI  # noqa: F401  starts MPI, which importing the command would forbid to the tests after these

from outpace.benchmarks import micro, problems
from outpace.benchmarks.command import arguments
from outpace.benchmarks.figures import FIGURES
from outpace.benchmarks.machine import links
from outpace.benchmarks.problems import splits
from outpace.benchmarks.running import stragglers
from outpace.benchmarks.running.plan import make_plan, parse_flags
from outpace.benchmarks.studies.__main__ import STUDIES, given_of, parser
from outpace.benchmarks.sweeps.description import load
from outpace.benchmarks.sweeps.programs import config_of, name_of, programs
from outpace.benchmarks.trace import schema
from outpace.comm import topology
from outpace.comm.errors import UserError

GOLDEN = ROOT / "tests" / "golden" / "trace-v1.h5"
OWN_RUNS = ("results/runs", "results/claims")  # not in the repository
SUFFIXES = (".py", ".md", ".toml", ".cfg", ".sbatch", ".env", ".png", ".cu", ".yaml")
USERS_FILES = {"periodic_sgd.py", "SWEEP.toml", "FILE.py", "OUT.png", "report.md"}

by_document = pytest.mark.parametrize("document", DOCUMENTS)


def prose(text: str) -> str:
    """The text without blocks of code."""
    return re.sub(r"^    .*$", "", FENCE.sub("", text), flags=re.MULTILINE)


def spans(text: str) -> list[str]:
    """What stands in backticks, on one line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text))]


@functools.cache
def anchors(path: Path) -> set[str]:
    """The names that the headings of a document have on GitHub."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text()), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.add(name + (f"-{seen[name]}" if seen[name] else ""))
        seen[name] += 1
    return found


@by_document
def test_links_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text_of(document))):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (DOCUMENTS[document].parent / name).resolve() if name else DOCUMENTS[document]
        assert path.exists(), f"{document} links to {target}"
        assert path.is_relative_to(ROOT)
        assert not anchor or anchor in anchors(path), f"{document}: no heading #{anchor} in {path.name}"


def test_anchors_are_those_of_github(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# `/steps`: one row, by `t_s`\n\n```\n# a comment\n```\n\n## A [link](x.md)\n\n## A link\n")
    assert anchors(page) == {"steps-one-row-by-t_s", "a-link", "a-link-1"}


@functools.cache
def names_of_files() -> set[str]:
    folders = [
        path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if not any(own in str(path) for own in OWN_RUNS)
    ]
    return {path.name for path in (*folders, *ROOT.iterdir())}


def missing(token: str, folder: Path) -> bool:
    """Whether this is the name of a file or folder of ours that does not exist."""
    if token in USERS_FILES or token.startswith(OWN_RUNS) or re.search(r"[^\w./-]", token):
        return False
    if "/" in token.rstrip("/"):
        return token.split("/")[0] in FOLDERS and not (ROOT / token).exists()
    if token.endswith("/"):
        return not (ROOT / token).is_dir() and not (folder / token).is_dir()
    return token.endswith(SUFFIXES) and token not in (*SUFFIXES, *names_of_files())


@by_document
def test_paths_exist(document: str) -> None:
    wanted = [span for span in spans(text_of(document)) if missing(span, DOCUMENTS[document].parent)]
    assert not wanted, f"{document} names {', '.join(dict.fromkeys(wanted))}"


def check_flags(name: str, flags: list[str], ranks: int) -> None:
    """Flags, their values and SPECs, as the program itself checks them."""
    make_plan(name_of(name), *parse_flags(name_of(name), config_of(name), flags), ranks)


def check_command(words: list[str]) -> None:
    """Raises SystemExit or UserError where the command would refuse these words without looking at a trace."""
    options, flags = arguments.parser().parse_known_args(words)
    if options.command == "run":
        check_flags(options.program, flags, options.workers)
        return
    assert not flags, f"no such flags: {flags}"
    if options.command == "plot":
        assert options.figure in (None, *FIGURES)
    if options.command == "micro":
        assert options.name in micro.RANKS
    if options.command == "sweep" and options.file.suffix != ".toml":
        load(options.file)


def test_commands_of_the_gpu_script_are_real() -> None:
    """Which no machine of ours has run."""
    text = (ROOT / "tests" / "gpu" / "run.sh").read_text().replace("\\\n", "")
    lines = re.findall(r"\boutpace (.*)", text)
    assert lines
    for line in lines:
        check_command(shlex.split(line))


@by_document
def test_commands_are_real(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for source in sources_of_programs():
        Path("periodic_sgd.py").write_text(source)
    for words in words_of(in_blocks(text_of(document)), "outpace "):
        try:
            check_command(words[1:])
        except (SystemExit, UserError) as error:
            if getattr(error, "code", 2) == 0:  # --help
                continue
            pytest.fail(f"{document}: {shlex.join(words)}: {error}")


@by_document
def test_commands_that_are_mentioned_exist(document: str) -> None:
    """In a sentence a command is shortened: its name and flags are held."""
    (known,) = (action.choices for action in arguments.parser()._actions if isinstance(action.choices, dict))
    for words in words_of(spans(text_of(document)), "outpace "):
        flags = [word for word in words if word.startswith("--")]
        assert words[1] in known, f"{document}: {shlex.join(words)}"
        assert words[1] == "run" or set(flags) <= known[words[1]]._option_string_actions.keys()


@by_document
def test_launches_are_real(document: str) -> None:
    text = text_of(document)
    start = r"(mpi(run|exec) .*)?python -m (mpi4py -m )?outpace\."
    for words in words_of([*in_blocks(text), *spans(text)], start):
        ranks = int(words[words.index("-n") + 1]) if "-n" in words else 1
        module = next(word for word in words if word.startswith("outpace."))
        rest = words[words.index(module) + 1 :]
        assert importlib.util.find_spec(module), f"{document}: {shlex.join(words)}"
        if module == "outpace.benchmarks.studies":
            options = parser().parse_args(rest)
            given_of(options, STUDIES[options.study])
        elif rest != ["--help"]:
            check_flags(module.rpartition(".")[2], rest, ranks)


@by_document
def test_make_targets_exist(document: str) -> None:
    rules = re.findall(r"^([a-z%-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    text = text_of(document)
    for words in words_of([*in_blocks(text), *spans(text)], "make [a-z]"):
        for target in words[1:]:
            assert any(re.fullmatch(rule.replace("%", r"\d"), target) for rule in rules), f"{document}: make {target}"


@by_document
def test_files_in_command_lines_exist(document: str) -> None:
    text = text_of(document)
    for words in words_of([*in_blocks(text), *spans(text)], r"(sbatch|python|\.venv/bin/\w+) "):
        for word in words:
            assert not missing(word, ROOT), f"{document}: {shlex.join(words)}"


@by_document
def test_python_compiles(document: str) -> None:
    for language, block in FENCE.findall(text_of(document)):
        if language == "python":
            compile(block, document, "exec")


def test_the_sweep_file_that_is_described_is_one(tmp_path: Path) -> None:
    (block,) = (block for language, block in FENCE.findall(text_of("jobscripts/README.md")) if language == "toml")
    (tmp_path / "mine.toml").write_text(block)
    described = load(tmp_path / "mine.toml")
    assert {point.program for point in described.points} == {"allreduce_sgd", "ad_psgd", "d2"}


@pytest.mark.parametrize("script", ["plot_h5py.py", "plot_xarray.py"])
def test_the_plotting_scripts_stand_in_the_document_and_run(tmp_path: Path, script: str) -> None:
    path, out = ROOT / "results" / script, tmp_path / "out.png"
    assert ("python", path.read_text()) in FENCE.findall(text_of("docs/figures.md"))
    line = [sys.executable, "-W", "error", str(path), str(GOLDEN), str(out)]
    done = subprocess.run(line, env=os.environ | {"MPLBACKEND": "Agg"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size > 5000


def test_every_attribute_and_column_is_described() -> None:
    text = " ".join(text_of("docs/trace.md").split())
    for name in schema.ATTRIBUTES:
        assert f"`{name}`" in text
    for columns in schema.GROUPS.values():
        for name, column in columns.items():
            assert f"| `{name}` | {column.dtype} | {column.units} | {column.long_name}" in text
    for name in (*schema.STATUSES, *schema.CLAIM_CLASSES, *schema.PROGRESS, *schema.PROGRESS_LOADS):
        assert f"`{name}`" in text
    for group, table in schema.TABLES.items():
        assert f"`/{group}`" in text
        for name in (*table.columns, *table.scales):
            assert f"`{name}`" in text
    for kind, number in schema.KIND.items():
        assert f"{number} {kind}" in text


def test_every_figure_and_program_is_described() -> None:
    for name in FIGURES:
        assert f"`{name}`" in text_of("docs/figures.md")
    for name in programs():
        assert f"\n| `{name}` |" in text_of("README.md")
        assert f"\n| `{name}` |" in text_of("algorithms/README.md")
        assert f"\n## {name}\n" in text_of("algorithms/README.md")


def test_every_spec_is_described_and_the_described_ones_are_real() -> None:
    catalogues = {
        "--problem": (problems.PROBLEMS, problems.canonical),
        "--split": (splits.SPLITS, splits.canonical),
        "--stragglers": (stragglers.STRAGGLERS, stragglers.canonical),
        "--links": (links.LINKS, links.canonical),
        "--topology": (topology.TOPOLOGIES, topology.canonical),
    }
    for flag, (catalogue, canonical) in catalogues.items():
        (row,) = re.findall(rf"^\| `{flag}` \|(.*)\|$", text_of("README.md"), re.MULTILINE)
        texts = {text.partition(":")[0]: text for text in re.findall(r"`([a-z][^`]*)`", row)}
        assert catalogue.keys() <= texts.keys()
        for name in catalogue:
            if not re.search(r"=(,|$|FILE|RUN)", texts[name]):  # else a value or a file is left to the reader
                canonical(texts[name])
