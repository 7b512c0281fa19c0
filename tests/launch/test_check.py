"""`outpace check` on the example of algorithms/README.md, as it is and broken in one way after the other."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jobs import LIMIT_S, alive

pytestmark = pytest.mark.long

README = Path(__file__).parents[2] / "algorithms" / "README.md"


def example() -> str:
    """The program with what it says of itself above its last lines."""
    program, contract = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    head, last_lines = program.split("\n\nif __name__")
    return f"{head}\n\n{contract}\n\nif __name__{last_lines}"


def check(source: str, folder: Path, *flags: str) -> tuple[int, dict[str, list[str]], list[str]]:
    """(exit code, contract -> words by number of ranks, lines below the table)."""
    (folder / "mine.py").write_text(source)
    line = [str(Path(sys.executable).parent / "outpace"), "check", "mine.py", *flags]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S)
    assert "Traceback" not in done.stderr, done.stderr
    head, *lines = done.stdout.splitlines() or [""]
    columns = head.count("n =")
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines]
    table = {row[0]: row[1:] for row in rows if len(row) == 1 + columns > 1}
    return done.returncode, table, lines[len(table) :] + done.stderr.splitlines()


def test_the_example_holds(tmp_path: Path) -> None:
    code, table, lines = check(example(), tmp_path, "-n", "1,2,3")
    assert code == 0, lines
    assert "mine.py: all that applies holds" in lines
    tried = {name for name, words in table.items() if words == ["holds"] * 3}
    assert {word for words in table.values() for word in words} == {"holds", "-"}
    assert len(table) == 13
    assert table.keys() - tried == {"keeps the mean", "refuses on every rank", "runs in two halves"}
    assert table["runs in two halves"] == ["-", "holds", "-"]


AVERAGE = "comm.Allreduce(MPI.IN_PLACE, x)"
BROKEN = {
    "cost": (
        "return ring_allreduce(n, 8 * dim)",
        "return ring_allreduce(n, 4 * dim)",
        {"sends what its cost says"},
        "sent 240 bytes in 3 rounds; 120 is their cost",
    ),
    "repeat": (
        "default_rng([BATCHES, cfg.seed, comm.rank])",
        "default_rng()",
        {"repeats exactly"},
        "two runs with one",
    ),
    "reference": ("X -= cfg.step_size * G", "X -= 0.1 * G", {"equals its reference"}, "from the reference after 25"),
    "checkpoint": ("budget.keep(x=x, rng=rng)", "", {"goes on from a checkpoint"}, "is all given to budget.keep?"),
    "allocation": (
        "x -= g",
        "x -= 1.0 * g",
        {"allocates no vector per step"},
        "model",
    ),
    "message": (
        "    return x\n",
        "    comm.Isend(g[:1], (comm.rank + 1) % comm.size)\n    return x\n",
        {"leaves no message"},
        "a message is left in the communicator",
    ),
    "world": (AVERAGE, "MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, x)", {"touches only its communicator"}, "COMM_WORLD"),
    "snapshot": (
        "        x -= g\n",
        "        x -= g\n        trace.snapshot(x)\n",
        {"shows the model before each update"},
        "8 snapshots in 4 steps",
    ),
    "exception": (AVERAGE, "raise KeyError(comm.rank)", {"leaves no message"}, "KeyError: "),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_named(tmp_path: Path, kind: str) -> None:
    before, after, contracts, why = BROKEN[kind]
    assert before in example()
    code, table, lines = check(example().replace(before, after, 1), tmp_path, "-n", "2")
    failed = {name for name, words in table.items() if words == ["fails"]}
    assert code == 1
    assert contracts <= failed, lines
    assert any(line.startswith(f"{name}: fails") and why in line for name in contracts for line in lines), lines
    if kind in ("cost", "reference", "allocation", "snapshot"):
        assert failed == contracts, lines


def test_a_program_that_hangs(tmp_path: Path) -> None:
    """Every rank waits for a message that nobody sends: told with its line, and no process is left."""
    source = example().replace("comm.Allreduce(MPI.IN_PLACE, x)", "comm.Recv(g, (comm.rank + 1) % comm.size)")
    note = f"    import os\n\n    open(os.path.join({str(tmp_path)!r}, f'{{os.getpid()}}.pid'), 'w').close()\n"
    source = source.replace("    x = problem.x0()\n", f"{note}    x = problem.x0()\n", 1)
    start = time.monotonic()
    code, table, lines = check(source, tmp_path, "-n", "2", "--limit", "3")
    assert time.monotonic() - start < 40
    line = next(number for number, text in enumerate(source.splitlines(), 1) if "comm.Recv" in text)
    assert code == 1
    assert table["leaves no message"] == ["fails"]
    assert table["equals its reference"] == ["not tried"]
    assert any(f"not at an end after 3 s; ranks are at line {line}" in text for text in lines), lines
    pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(pids) == 2
    assert not any(map(alive, pids))


def test_a_number_of_ranks_that_is_not_allowed(tmp_path: Path) -> None:
    """Where Config.check does not refuse it, that is told; where it does, all holds and nothing is tried."""
    allowed = "def allowed(n):\n    return n != 2\n\n\n"
    code, table, _ = check(example().replace("def work", allowed + "def work"), tmp_path, "-n", "2")
    assert code == 1
    assert table["refuses on every rank"] == ["fails"]
    refusal = "    def check(self, n):\n        if n == 2:\n            raise UserError('not with two')\n\n\ndef run"
    source = example().replace("def work", allowed + "def work").replace("def run", refusal, 1)
    source = source.replace("import ProgramConfig", "import ProgramConfig\nfrom outpace.comm.errors import UserError")
    code, table, lines = check(source, tmp_path, "-n", "2")
    assert code == 0, lines
    assert table["refuses on every rank"] == ["holds"]
    assert table["learns and counts"] == ["-"]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("def run(comm): pass", "mine.py defines no class Config"),
        ("class Config: pass", "mine.py defines no function run"),
        ("class Config(", "mine.py is no Python"),
        ("class Config: pass\n\ndef run(): pass", "mine.py: Config is not derived from"),
        ("import nothing_of_that_name\n\nclass Config: pass\n\ndef run(): pass", "mine.py: ModuleNotFoundError"),
    ],
    ids=["no Config", "no run", "no Python", "another Config", "import"],
)
def test_what_is_no_program(tmp_path: Path, source: str, why: str) -> None:
    code, table, lines = check(source, tmp_path, "-n", "1")
    assert code == 2
    assert not table
    assert lines[-1].startswith("outpace: ")
    assert why in lines[-1]


def test_no_such_file(tmp_path: Path) -> None:
    line = [str(Path(sys.executable).parent / "outpace"), "check", "none.py"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 2
    assert done.stderr == "outpace: none.py: No such file or directory\n"
