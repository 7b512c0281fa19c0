"""Flags as programs mostly get them, `--name value`, read in a millisecond; tyro takes a tenth of a second to load.

What is not plain, what is wrong and what asks for help is tyro's, so no rule or message is written twice.
"""

import types
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

PLAIN: Final = (int, float, str, Path)  # types of values, each of which reads its own text


def read(classes: Sequence[type[Any]], arguments: Sequence[str]) -> list[Any] | None:
    """The dataclasses that the flags mean; None where they are not plain, and somebody else must read them.

    Plain is every flag given once, as `--name value`, `--name=value` or, of a switch, `--name` or `--no-name`.
    """
    hints: dict[str, Any] = {}
    for kind in classes:
        of_kind = get_type_hints(kind)
        hints |= {field.name: of_kind[field.name] for field in fields(kind)}
    values: dict[str, Any] = {}
    words = list(arguments)
    try:
        while words:
            flag, equals, text = words.pop(0).partition("=")
            name = flag.removeprefix("--").replace("-", "_")
            value: Any
            switched = name.removeprefix("no_")
            if hints.get(switched) is bool and not equals:
                name, value = switched, name == switched
            else:
                value = _value(hints[name], text if equals else words.pop(0))
            if not flag.startswith("--") or name in values:
                return None
            values[name] = value
        return [kind(**{f.name: values[f.name] for f in fields(kind) if f.name in values}) for kind in classes]
    except (ValueError, TypeError, LookupError):
        return None


def _value(hint: Any, text: str) -> Any:
    """The value of this type that the text means. Raises ValueError where that is not plain."""
    if text.startswith("-") or text in ("", "None"):
        raise ValueError
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (option for option in get_args(hint) if option is not type(None))
    if get_origin(hint) is Literal and text in get_args(hint):
        return text
    if hint not in PLAIN:
        raise ValueError
    return hint(text)
