"""The programs that `outpace run` and sweeps take: the suite's own by name, a user's by its file."""

import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outpace import algorithms
from outpace.comm import user_code
from outpace.comm.errors import UserError

if TYPE_CHECKING:
    from outpace.benchmarks.config import ProgramConfig


def programs() -> list[str]:
    """The suite's own programs, by name."""
    return sorted(module.name for module in pkgutil.iter_modules(algorithms.__path__))


def module_of(program: str) -> str:
    """What the launcher starts for the program: its module, or its file. Raises UserError where there is neither."""
    if program in programs():
        return f"outpace.algorithms.{program}"
    if not program.endswith(".py") or program.startswith("-"):
        raise UserError(f"unknown program '{program}'; allowed: {', '.join(programs())}, or the path of a .py file")
    if not Path(program).is_file():
        raise UserError(f"unknown program '{program}': no such file")
    return program


def name_of(program: str) -> str:
    """Its name in traces and files: that of its file."""
    return Path(program).stem if program.endswith(".py") else program


def config_of(program: str) -> "type[ProgramConfig]":
    """The program's Config. Raises UserError where its file has none or cannot be imported."""
    from outpace.benchmarks.config import ProgramConfig  # with it comes NumPy, which the command does without

    name = module_of(program)
    module = user_code.load(Path(name).resolve()) if name.endswith(".py") else importlib.import_module(name)
    Config: Any = getattr(module, "Config", None)
    if not (isinstance(Config, type) and issubclass(Config, ProgramConfig)):
        raise UserError(f"{program}: no class Config(ProgramConfig) in it")
    return Config
