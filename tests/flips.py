"""Random flips and cuts of what runs leave: no damage is taken for good, none ends in anything but a line of text.

    python tests/flips.py --tries 500 --seed 1

Runs are killed once, with their parts, stores and checkpoints, and recovered whole: these are the references. In each
try one file of a copy is damaged, and is read as its reader does: `show --recover`, a run that goes on, or `show`. What
is told must then be in the reference, and what is not must have been said.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jobs import Job

from outpace.benchmarks.running.recovery import recover
from outpace.benchmarks.trace import blocks, checkpoint, lock, schema
from outpace.benchmarks.trace.inspection import summary, validate
from outpace.benchmarks.trace.parts import leftovers
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

PROGRAMS = {"d_psgd": 2, "ad_psgd": 2, "a_psgd": 3}  # synchronous, asynchronous, with a server; ranks
FLAGS = ["--problem", "quadratic:dim=20,sigma=0.3", "--time-budget", "60", "--compute-time", "0.01"]
KINDS = ("part", "models", "state", "trace")
PATTERNS = {"part": r"part-\d+$", "models": r"\.models$", "state": r"part-(\d+)\.state-(\d+)$"}
ESTIMATED = ("nbytes",)  # of /evaluations: the traffic of the whole run, by rounds


@dataclass(frozen=True)
class Killed:
    """What a killed run left in a folder, and the trace that it comes to."""

    folder: Path
    target: Path
    reference: Path

    def files(self, kind: str) -> list[Path]:
        return [path for path in leftovers(self.target) if re.search(PATTERNS[kind], path.name)]


def kill(program: str, folder: Path, seconds: float) -> Killed:
    """Start the program, kill its ranks so long after its start, and recover a copy of what it left."""
    folder.mkdir(parents=True)
    target, ranks = folder / "run.h5", PROGRAMS[program]
    line = [str(Path(sys.executable).parent / "outpace"), "run", program, "-n", str(ranks), *FLAGS]
    line += ["--checkpoint-every", "1", "--out", str(target)]
    job = Job(subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True), target)
    job.wait_until_running(ranks, seconds)
    job.kill(5)
    lock.of(target).unlink()
    copy = Path(shutil.copytree(folder, folder.with_name(f"{program}-whole")))
    (reference,) = recover(copy)
    return Killed(folder, target, reference)


def damage(path: Path, rng: np.random.Generator) -> str:
    """Flip some bits of the file or cut it; what was done, in words."""
    data = bytearray(path.read_bytes())
    if rng.random() < 0.25:
        size = int(rng.integers(1, len(data)))
        if blocks.unpack(bytes(data[:size]))[1] is None:
            size -= 1  # between two blocks it would be what a kill leaves
        os.truncate(path, size)
        return f"cut to {size} of {len(data)} bytes"
    places = sorted(rng.integers(len(data), size=int(rng.choice([1, 1, 1, 4]))).tolist())
    for at in places:
        data[at] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    return f"flipped at {places} of {len(data)} bytes"


def rows(run: Run, group: str, names: Sequence[str]) -> set[tuple[float, ...]]:
    return set(zip(*(run.column(group, name).tolist() for name in names), strict=True))


def check_told(found: Path, reference: Path, said: bool) -> None:
    """Every row that is told is one of the reference; without a word all of them are."""
    run, whole = Run(found), Run(reference)
    for group in ("steps", "events", "evaluations"):
        names = [name for name in schema.GROUPS[group] if whole.has(group, name) and name not in ESTIMATED]
        told, all_of_them = rows(run, group, names), rows(whole, group, names)
        assert told <= all_of_them, f"/{group}: {len(told - all_of_them)} row(s) that never were"
        assert said or told == all_of_them, f"/{group}: {len(all_of_them - told)} row(s) are missing, without a word"
    assert (run.column("traffic", "nbytes") <= whole.column("traffic", "nbytes")).all()
    same = {"algorithm", "config", "config_id", "n_samples", "hostnames", "command"}
    assert all(run.attrs[name] == whole.attrs[name] for name in same)


def attempt(killed: Killed, kind: str, rng: np.random.Generator, scratch: Path) -> str:
    """Damage one file of this kind and read it; what came of it. Raises AssertionError, or what the reader raises."""
    folder = Path(shutil.copytree(killed.folder, scratch / "folder"))
    target = folder / killed.target.name
    if kind == "trace":
        trace = Path(shutil.copy(killed.reference, scratch / "trace.h5"))
        did = damage(trace, rng)
    else:
        files = killed.files(kind)
        victim = folder / files[int(rng.integers(len(files)))].name
        did = f"{victim.name} {damage(victim, rng)}"
    try:
        if kind == "trace":
            try:
                validate(trace)
                summary(Run(trace))
                check_told(trace, killed.reference, said=False)
            except UserError:
                return "refused"
            return "harmless"
        if kind == "state":
            found = re.search(PATTERNS[kind], victim.name)
            assert found
            rank, generation = int(found[1]), int(found[2])
            try:
                read = checkpoint.read(target, rank, generation)
            except UserError:
                return "refused"
            np.testing.assert_equal(read, checkpoint.read(killed.target, rank, generation))
            return "harmless"
        recovered, said = [], ""
        try:
            recovered.extend(recover(folder))
        except UserError as error:
            said = str(error)
        assert "not those of a run" not in said, said
        for trace in recovered:
            validate(trace)
            check_told(trace, killed.reference, bool(said))
        assert recovered or said
        return ("recovered before it" if recovered else "refused") if said else "harmless"
    except BaseException as error:
        error.add_note(f"{kind} of {killed.folder.name}: {did}")
        raise
    finally:
        for path in scratch.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def attempts(programs: Sequence[str], tries: int, seed: int) -> Iterator[tuple[str, str]]:
    """(kind, what came of it) of every try, the kinds in turn."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(prefix="outpace-flips-") as name:
        made = [kill(program, Path(name) / program, 3.2) for program in programs]
        scratch = Path(name) / "try"
        scratch.mkdir()
        for k in range(tries):
            kind = KINDS[k % len(KINDS)]
            yield kind, attempt(made[int(rng.integers(len(made)))], kind, rng, scratch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    counts = Counter(attempts(list(PROGRAMS), options.tries, options.seed))
    for (kind, outcome), count in sorted(counts.items()):
        print(f"{count:5} {kind:7} {outcome}")


if __name__ == "__main__":
    main()
