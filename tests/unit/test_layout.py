"""The rules of the layout, read from the sources: who may import whom, what a program may touch, what is packaged."""

import ast
import configparser
from pathlib import Path

import pytest

from outpace.comm.meter import MeteredComm, MeteredGraph

ROOT = Path(__file__).parents[2]
FOLDERS = ("algorithms", "benchmarks", "comm", "jobscripts")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
PROGRAMS = sorted(path for path in (ROOT / "algorithms").glob("*.py") if path.name != "__init__.py")
FLOOR = {"jobscripts": 0, "comm": 0, "benchmarks": 1, "algorithms": 2}
BETWEEN_PROGRAMS = {("katyusha_x", "svrg")}  # the one import between programs


def imports(path: Path) -> set[str]:
    """Dotted names of all modules that the file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_runs_upward(path: Path) -> None:
    floor = FLOOR[path.relative_to(ROOT).parts[0]]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "outpace" and len(parts) > 2:
            if FLOOR[parts[1]] == 2:
                assert (path.stem, parts[2]) in BETWEEN_PROGRAMS, f"imports the program {name}"
            assert FLOOR[parts[1]] <= floor, f"imports {name} from a floor above"


def test_no_import_runs_in_a_circle() -> None:
    modules = {".".join(("outpace", *path.relative_to(ROOT).with_suffix("").parts)): path for path in SOURCES}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    edges = {name: {other for other in imports(path) if other in modules} - {name} for name, path in modules.items()}
    done: set[str] = set()
    while ready := {name for name, needs in edges.items() if name not in done and needs <= done}:
        done |= ready
    # a package and its modules may name each other: `from package import module`
    left = {name for name in edges if name not in done and modules[name].name != "__init__.py"}
    assert not {name for name in left if edges[name] & left}


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_touches_only_its_communicator(path: Path) -> None:
    """No COMM_WORLD, argv, files, clocks, threads or windows; every MPI method it calls is one that is metered."""
    tree = ast.parse(path.read_text())
    assert not imports(path) & {"time", "threading", "sys", "os", "queue", "multiprocessing"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("COMM_WORLD", "COMM_SELF", "Request", "Win", "argv", "Barrier"), node.attr
        if isinstance(node, ast.Name):
            assert node.id not in ("open", "print", "input")
    own = {name for kind in (MeteredComm, MeteredGraph) for name in vars(kind)}
    silent = {"Irecv", "Recv", "Wait", "Free", "Start", "Status", "Split"}  # these send nothing
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr[0].isupper():
            assert node.func.attr in own | silent, f"{node.func.attr} is not metered"


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_reads_like_one(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    (run,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "run")
    assert [argument.arg for argument in run.args.args] == ["comm", "problem", "cfg", "budget", "trace"]
    loops = [node for node in ast.walk(run) if isinstance(node, ast.For)]
    assert any(isinstance(loop.iter, ast.Name) and loop.iter.id == "budget" for loop in loops)
    assert path.read_text().rstrip().endswith('if __name__ == "__main__":\n    main(run, Config)')


def test_every_folder_with_code_is_packaged() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    packages = set(config["options"]["packages"].split())
    folders = {".".join(("outpace", *path.parent.relative_to(ROOT).parts)) for path in SOURCES}
    assert packages == folders
    for folder in folders:
        here = ROOT.joinpath(*folder.split(".")[1:])
        assert (here / "__init__.py").exists()
        assert (here / "py.typed").exists()
