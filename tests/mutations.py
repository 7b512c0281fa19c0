"""Deliberate faults in the sources, each with a test that must fail by it.

`make mutations` copies the checkout into a temporary folder and puts the faults of `mutations.toml` into the copy, one
at a time; each one's test runs there, before that without the fault. A fault that its test lets pass has survived,
which is an error, but for those whose `equivalent` says why no test can see them. `--write` writes docs/mutations.md,
`--only WORD...` tries the faults with one of these words in their title or file. `--claims` tries those with a `claim`,
the id of one in the ledger that holds without the fault and must not hold with it, by `outpace claims` in place of the
test.
"""

import argparse
import functools
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "mutations.md"
BIN = Path(sys.executable).parent
NOT_COPIED = shutil.ignore_patterns(".git", ".venv*", "build", "dist", "*.egg-info", "results")
# A fault may leave ranks waiting for one another: that is seen as well, by a limit that a busy machine does not meet.
HANGS_S = 45
SLOWER = 10  # times as long as without the fault, if that is more
TOO_LONG = ("Timeout (", "TIMED OUT")  # what pytest and mpiexec say then
HEAD = """# Faults that the tests see

Every row is a deliberate fault, put into a copy of the sources, and a test that fails by it. `make mutations` tries
them all. The table is `tests/mutations.toml`, and this page is written from it:
`.venv/bin/python tests/mutations.py --write`.
"""
BY_CLAIMS = """
## Faults that claims see

A wrong implementation fails its claim, too: with these faults `outpace claims` says no longer that it holds
(`.venv/bin/python tests/mutations.py --claims`).
"""
UNSEEN = """
## Changes that no test can see

They leave what the program does as it is.
"""


@dataclass(frozen=True, kw_only=True)
class Mutation:
    fault: str
    file: str
    old: str  # stands in the file exactly once
    new: str
    test: str  # file of the cheapest test that fails
    k: str  # which of its tests
    ranks: int = 0  # under mpiexec; 0: without
    equivalent: str = ""  # why no test can fail
    claim: str = ""  # id of a claim that no longer holds

    def apply(self, text: str) -> str:
        """The file's text with the fault. Raises ValueError where the old text is not there, or not once."""
        if text.count(self.old) != 1:
            raise ValueError(f"{self.fault}: the old text stands in {self.file} {text.count(self.old)} times")
        return text.replace(self.old, self.new)

    def command(self) -> list[str]:
        launcher = ["mpiexec", "-n", str(self.ranks)] if self.ranks else []
        return [*launcher, "pytest", self.test, "-k", self.k]


def table() -> list[Mutation]:
    rows = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())["mutation"]
    return [Mutation(**row) for row in rows]


def page() -> str:
    """docs/mutations.md"""
    seen, unseen = ([m for m in table() if bool(m.equivalent) is sort] for sort in (False, True))
    lines = [HEAD, "| fault | in | test that fails |", "|---|---|---|"]
    lines += [f"| {m.fault} | `{m.file}` | `{shlex.join(m.command())}` |" for m in seen]
    lines += [BY_CLAIMS, "| fault | in | claim |", "|---|---|---|"]
    lines += [f"| {m.fault} | `{m.file}` | `{m.claim}` |" for m in table() if m.claim]
    if unseen:
        lines += [UNSEEN, "| change | in | why |", "|---|---|---|"]
        lines += [f"| {m.fault} | `{m.file}` | {m.equivalent} |" for m in unseen]
    return "\n".join(lines) + "\n"


def copied(folder: Path) -> Path:
    """A checkout whose build/types, on PYTHONPATH, comes before the editable install."""
    copy = folder / "checkout"
    shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
    packages = copy / "build" / "types" / "outpace"
    packages.mkdir(parents=True)
    for init in copy.glob("*/__init__.py"):
        (packages / init.parent.name).symlink_to(init.parent)
    return copy


@dataclass(frozen=True)
class Looked:
    passed: bool
    hung: bool
    seconds: float


def passes(copy: Path, command: tuple[str, ...], limit_s: float) -> Looked:
    """Whether the test passes in the copy, as it is now, within the limit."""
    program = [str(BIN / word) if word in ("mpiexec", "pytest") else word for word in command]
    options = ["-q", "-x", "-p", "no:cacheprovider", "-o", f"faulthandler_timeout={limit_s:.0f}"]
    env = os.environ | {"PYTHONPATH": str(copy / "build" / "types"), "MPIEXEC_TIMEOUT": f"{2 * limit_s:.0f}"}
    start = time.monotonic()
    done = subprocess.run([*program, *options], cwd=copy, env=env, capture_output=True, text=True, check=False)
    hung = any(words in done.stdout + done.stderr for words in TOO_LONG)
    return Looked(done.returncode == 0, hung, time.monotonic() - start)


def holds(copy: Path, claim: str, _: float) -> Looked:
    """Whether the claim holds by the copy, as it is now."""
    env, start = os.environ | {"PYTHONPATH": str(copy / "build" / "types")}, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        line = [str(BIN / "outpace"), "claims", claim, "--quick", "-o", folder]
        subprocess.run(line, cwd=copy, env=env, capture_output=True, check=True)
        (found,) = json.loads((Path(folder) / "claims.json").read_text())["claims"]
    return Looked(found["verdict"] == "holds", False, time.monotonic() - start)


def verdict(copy: Path, mutation: Mutation, look: Callable[[], Looked]) -> str:
    """What became of the fault."""
    path = copy / mutation.file
    original, stat = path.read_text(), path.stat()
    path.write_text(mutation.apply(original))
    if path.suffix == ".py":
        compile(path.read_text(), mutation.file, "exec")
    try:
        looked = look()
    finally:
        path.write_text(original)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # what is compiled of it is still good
    if looked.passed:
        return "equivalent" if mutation.equivalent else "SURVIVED"
    if mutation.equivalent:
        return "KILLED, though called equivalent"
    return "killed, by hanging" if looked.hung else "killed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="WORD", nargs="+", default=[""])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--claims", action="store_true")
    options = parser.parse_args()
    if options.write:
        PAGE.write_text(page())
        return
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(Path(folder))
        look = holds if options.claims else passes
        sound = functools.cache(functools.partial(look, copy))
        for mutation in table():
            asked_for = any(word in mutation.fault + mutation.file for word in options.only)
            if asked_for and (mutation.claim or not options.claims):
                start, asked = time.monotonic(), mutation.claim if options.claims else tuple(mutation.command())
                before = sound(asked, SLOWER * HANGS_S)
                again = functools.partial(look, copy, asked, max(HANGS_S, SLOWER * before.seconds))
                found = verdict(copy, mutation, again) if before.passed else "FAILS WITHOUT THE FAULT"
                bad += not found.startswith("killed") and found != "equivalent"
                print(f"{time.monotonic() - start:5.0f} s  {found:10}  {mutation.file}: {mutation.fault}", flush=True)
    sys.exit(f"{bad} of the faults are not seen as the table says" if bad else 0)


if __name__ == "__main__":
    main()
