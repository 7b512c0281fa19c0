"""`outpace check`: the conformance table of one program, from its source and from launches on several ranks."""

import ast
import json
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple, NoReturn

from rich.console import Console
from rich.table import Table

from outpace.benchmarks.conformance import rules
from outpace.benchmarks.conformance.contracts import CONTRACTS
from outpace.benchmarks.conformance.verdict import FAILS, HOLDS, MARK, NOTHING, UNTRIED, UNUSABLE, Broken
from outpace.benchmarks.machine import launcher
from outpace.comm.errors import UserError

RULES: Final[tuple[Callable[[str], None], ...]] = (rules.reads_like_a_program, rules.touches_only_its_communicator)
COLOURS: Final = {HOLDS: "green", FAILS: "red", UNTRIED: "yellow", NOTHING: None}
LOST: Final = 2  # launches on one number of ranks that may end in the midst of a contract


class Verdict(NamedTuple):
    word: str
    why: str = ""


def check(path: Path, sizes: Sequence[int], limit_s: float) -> int:
    """Print the table for the program in `path`, on each of these numbers of ranks; a contract that has not come to
    an end after limit_s seconds fails.

    Exit codes: 0 where all holds, 1 where something does not. Raises UserError for a file that is no program.
    """
    source = read(path)
    verdicts = {rule.__name__: dict.fromkeys(sizes, _read(rule, source)) for rule in RULES}
    verdicts |= {name: {} for name in CONTRACTS}
    with launcher.handling(_interrupt, signal.SIGTERM, signal.SIGHUP):
        for n in sizes:
            for name, verdict in _tried(path.resolve(), n, limit_s).items():
                verdicts[name][n] = verdict
    return _show(path, sizes, verdicts)


def read(path: Path) -> str:
    """The source of a program. Raises UserError where the file is none."""
    try:
        source = path.read_text()
        tree = ast.parse(source)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path} is no Python: {error}") from None
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for name, what in (("Config", "class"), ("run", "function")):
        if name not in defined:
            raise UserError(f"{path} defines no {what} {name}; algorithms/README.md has an example of a program")
    return source


def _read(rule: Callable[[str], None], source: str) -> Verdict:
    try:
        rule(source)
    except Broken as broken:
        return Verdict(FAILS, str(broken))
    return Verdict(HOLDS)


def _tried(path: Path, n: int, limit_s: float) -> dict[str, Verdict]:
    """The verdicts on all contracts on n ranks. A contract that ends its launch fails, and the others go on in another
    one, unless it was the first one, a plain run, or too many have."""
    verdicts: dict[str, Verdict] = {}
    lost = 0
    while rest := [name for name in CONTRACTS if name not in verdicts]:
        if lost == LOST or (lost and len(rest) == len(CONTRACTS) - 1):
            return verdicts | dict.fromkeys(rest, Verdict(UNTRIED))
        found, end = _launched(path, n, limit_s, rest)
        verdicts |= found
        if len(found) < len(rest):
            verdicts[rest[len(found)]] = Verdict(FAILS, end)
            lost += 1
    return verdicts


def _launched(path: Path, n: int, limit_s: float, names: Sequence[str]) -> tuple[dict[str, Verdict], str]:
    """The verdicts that one launch came to, and how it ended if not with the last of them."""
    module, arguments = "outpace.benchmarks.conformance", [str(path), f"{limit_s:g}", *names]
    print(shlex.join(launcher.command(module, n, arguments)), file=sys.stderr, flush=True)
    with TemporaryDirectory() as folder, open(Path(folder, "log"), "ab") as log:
        running = launcher.Started(module, n, arguments, log)
        try:
            ended = running.wait()
        except KeyboardInterrupt:
            running.send(signal.SIGTERM)
            running.wait()
            raise
        said = Path(log.name).read_text(errors="replace")
    found = {}
    for line in re.findall(rf"^{MARK}(.*)$", said, re.MULTILINE):
        word, name, why = json.loads(line)
        if word == UNUSABLE:
            raise UserError(f"{path.name}: {why}")
        found[name] = Verdict(word, why)
    return found, _last_words(said, path, limit_s) or ended.cause or f"the launch ended with exit code {ended.code}"


def _last_words(said: str, path: Path, limit_s: float) -> str:
    """Why ranks ended in the midst of a contract, by what they printed."""
    if "Timeout (" in said:
        lines = sorted(set(re.findall(rf'File "{re.escape(str(path))}", line (\d+)', said)), key=int)
        return f"not at an end after {limit_s:g} s" + (f"; ranks are at line {', '.join(lines)}" if lines else "")
    raised = re.search(r"^(?:rank \d+: )?[\w.]+(?:Error|Exception|Exit|Interrupt)\b.*", said, re.MULTILINE)
    return raised[0] if raised else ""


def _show(path: Path, sizes: Sequence[int], verdicts: dict[str, dict[int, Verdict]]) -> int:
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    table = Table("", *(f"n = {n}" for n in sizes), box=None)
    reasons: dict[tuple[str, Verdict], list[int]] = {}
    for name, row in verdicts.items():
        table.add_row(name.replace("_", " "), *(row[n].word for n in sizes))
        for n, verdict in row.items():
            if verdict.why:
                reasons.setdefault((name, verdict), []).append(n)
    console.print(table)
    for (name, verdict), ranks in reasons.items():
        at = "" if len(ranks) == len(sizes) else f" at n = {', '.join(map(str, ranks))}"
        word = "fails" if verdict.word == FAILS else "does not apply"
        console.print(f"{name.replace('_', ' ')}: {word}{at}: {verdict.why}")
    broken = [name for name, row in verdicts.items() if any(verdict.word == FAILS for verdict in row.values())]
    console.print(f"{path.name}: " + (f"{len(broken)} of {len(verdicts)} fail" if broken else "all that applies holds"))
    return 1 if broken else 0


def _interrupt(number: int, _: object) -> NoReturn:
    raise KeyboardInterrupt
