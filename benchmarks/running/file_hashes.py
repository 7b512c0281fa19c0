"""The files that a run reads are part of what it is, by their contents."""

import functools
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.machine.links import LINKS
from outpace.benchmarks.problems import PROBLEMS
from outpace.benchmarks.running.stragglers import STRAGGLERS
from outpace.comm import spec
from outpace.comm.topology import TOPOLOGIES

PROGRAM: Final = "program"
CATALOGUES: Final[dict[str, Mapping[str, type[Any]]]] = {
    "problem": PROBLEMS,
    "stragglers": STRAGGLERS,
    "links": LINKS,
    "topology": TOPOLOGIES,
}


def own_file(Config: type[ProgramConfig]) -> Path | None:
    """The file of a user's own program; None for a program of the suite."""
    module = sys.modules[Config.__module__]
    if module.__spec__ is not None and module.__spec__.name.startswith("outpace."):
        return None
    return Path(str(module.__file__))


def of_run(config: ProgramConfig, flags: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of a user's own program, under `PROGRAM`, of a machine to simulate, and of the files that SPECs among the
    flags name. Raises UserError for a bad SPEC."""
    own = own_file(type(config))
    machine = flags.get("simulate")  # a preset's name is no file
    named = {PROGRAM: own} | ({machine: Path(machine)} if machine else {})
    return {name: digest for name, path in named.items() if path and (digest := _sha256(path))} | of_specs(flags)


def of_specs(flags: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the files that these SPECs name, under their names. A file that cannot be read has none: whoever needs
    it says so. Raises UserError for a bad SPEC."""
    names = []
    for flag, catalogue in CATALOGUES.items():
        if flags.get(flag) is not None:
            names += spec.inputs(spec.parse(flags[flag], catalogue, f"--{flag}"))
    return {name: digest for name in names if (digest := _sha256(Path(name)))}


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The inputs whose contents are not what they were."""
    return [name for name, digest in now.items() if before.get(name, digest) != digest]


def _sha256(path: Path) -> str | None:
    try:
        if not path.is_file():  # a pipe can be read once
            return None
        status = path.stat()
        return _digest(path.resolve(), status.st_mtime_ns, status.st_size)
    except OSError:
        return None


@functools.cache  # a sweep asks for each of its thousands of points
def _digest(path: Path, changed_ns: int, nbytes: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
