"""The rooms of the sources and the imports between them; `python tests/rooms.py [CHECKOUT]` prints their measures.

A room is a folder of benchmarks/, a file that stands in benchmarks/ itself, or one of the other folders with code.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("algorithms", "benchmarks", "comm", "jobscripts")


def sources(root: Path = ROOT) -> dict[str, Path]:
    """Dotted name of every module -> its file; a package has the name of its folder."""
    paths = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    dotted = {".".join(("outpace", *path.relative_to(root).with_suffix("").parts)): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in dotted.items()}


def named(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of everything that a file takes from elsewhere, wherever in it; `import a` has an empty name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from ((str(node.module), alias.name) for alias in node.names)


def imports(root: Path = ROOT) -> dict[str, set[str]]:
    """Module -> the modules of the suite that it imports, those taken from a package by name included."""
    modules = sources(root)
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        taken = {f"{source}.{name}" if f"{source}.{name}" in modules else source for source, name in named(path)}
        found[module] = taken & modules.keys() - {module}
    return found


def room(module: str) -> str:
    """The room of a module.

    >>> room("outpace.benchmarks.trace.parts"), room("outpace.benchmarks.program"), room("outpace.comm.spec")
    ('trace', 'program', 'comm')
    """
    _, folder, *rest = module.split(".")
    return rest[0] if folder == "benchmarks" and rest else folder


def arrows(root: Path = ROOT) -> set[tuple[str, str]]:
    """(room, room that it imports from)."""
    pairs = {(room(name), room(other)) for name, others in imports(root).items() for other in others}
    return {(here, there) for here, there in pairs if here != there}


def longest_class(path: Path) -> int:
    """Lines of the longest class of a file, 0 without classes."""
    classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    return max((int(node.end_lineno or 0) - node.lineno + 1 for node in classes), default=0)


def main() -> None:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    modules = {name: path for name, path in sources(root).items() if path.read_text().strip()}
    lines = {name: path.read_text().count("\n") for name, path in modules.items()}
    of_benchmarks = [name for name in modules if name.startswith("outpace.benchmarks")]
    longest = max(of_benchmarks, key=lines.__getitem__)
    classes = {name: longest_class(modules[name]) for name in of_benchmarks}
    largest = max(classes, key=classes.__getitem__)
    print(f"{len(modules)} files, {sum(lines.values())} lines; benchmarks/: {len(of_benchmarks)} files")
    print(f"{len({room(name) for name in modules})} rooms, {len(arrows(root))} arrows between them")
    print(f"longest file of benchmarks/: {longest}, {lines[longest]} lines")
    print(f"longest class of benchmarks/: in {largest}, {classes[largest]} lines")


if __name__ == "__main__":
    main()
