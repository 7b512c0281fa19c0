"""Python files of the user's."""

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from outpace.comm.errors import UserError


@functools.cache
def load(path: Path) -> ModuleType:
    """The module in the file at this absolute path, run once. Its folder goes first on sys.path, as where Python runs
    the file: modules beside it are found. Raises UserError where it fails."""
    spec = importlib.util.spec_from_file_location(str(path), path)
    assert spec
    assert spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where its dataclasses are looked up
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise UserError(f"{path}: cannot be imported: {type(error).__name__}: {error}") from None
    return module
