"""SPECs: `name` or `name:key=value,key=value`, one frozen dataclass per name, one parser.

A field's type gives the form of its value, its default makes the key optional and an `Annotated` `Range`
or `Quantity` bounds it. A key is its field's name with `-` for `_`. The dataclasses that make the command line flags
are checked by the same rules (`check`).
"""

import math
import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from outpace.comm.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """The values a number may take: over `above`, under `below`, and from `least` to `most` inclusive."""

    above: float = -math.inf
    below: float = math.inf
    least: float = -math.inf
    most: float = math.inf

    def holds(self, value: float) -> bool:
        return self.above < value < self.below and self.least <= value <= self.most and math.isfinite(value)

    def __str__(self) -> str:
        bounds = []
        if self.above > -math.inf:
            bounds.append(f"more than {_text(self.above)}")
        if self.least > -math.inf:
            bounds.append(f"at least {_text(self.least)}")
        if self.below < math.inf:
            bounds.append(f"less than {_text(self.below)}")
        if self.most < math.inf:
            bounds.append(f"at most {_text(self.most)}")
        return " and ".join(bounds) or "finite"


@dataclass(frozen=True)
class Input:
    """A text that names a file which the run reads, unless it is one of `besides`."""

    besides: tuple[str, ...] = ()

    def file(self, text: str) -> str:
        """The file's name; nothing where there is none."""
        return "" if text in self.besides else text


@dataclass(frozen=True)
class InputBefore(Input):
    """FILE:NAME, a name in a file; without a colon it names none."""

    def file(self, text: str) -> str:
        return text.rpartition(":")[0]


@dataclass(frozen=True)
class InputBehind(Input):
    """KIND:FILE; without a colon it names none."""

    def file(self, text: str) -> str:
        return text.partition(":")[2]


@dataclass(frozen=True)
class Quantity:
    """A text that is a number with one of the units, from `least` to `most`. It is kept in the largest unit that makes
    1 or more of it, so that equal quantities are equal text.

    >>> rate = Quantity((("kbit", 1e3), ("mbit", 1e6)), "8kbit", "100mbit")
    >>> rate.number("1.5mbit"), rate.text(8e5)
    (1500000.0, '800kbit')
    """

    units: tuple[tuple[str, float], ...]  # the smallest first
    least: str
    most: str

    def number(self, text: str) -> float:
        """How much it is, in what the sizes of the units are in. Raises ValueError for another form."""
        units = dict(self.units)
        parts = re.fullmatch(rf"(\d+(?:\.\d+)?)({'|'.join(units)})", text, re.ASCII)
        if not parts:
            raise ValueError(text)
        return float(parts[1]) * units[parts[2]]

    def text(self, number: float) -> str:
        unit, size = [(unit, size) for unit, size in self.units if size <= max(number, self.units[0][1])][-1]
        return f"{_text(number / size)}{unit}"

    def read(self, text: str, label: str) -> str:
        """The text as it is kept. Raises UserError, which `label` begins, for another form and out of bounds."""
        try:
            number = self.number(text)
        except ValueError:
            number = math.nan
        if not self.number(self.least) <= number <= self.number(self.most):
            units = ", ".join(unit for unit, _ in self.units)
            raise UserError(f"{label} is '{text}'; it must be from {self.least} to {self.most}; units: {units}")
        return self.text(number)


InputFile = Annotated[str, Input()]
# No number is without bounds. Whole ones are exact as floats and fit into the integers of NumPy and MPI; the product of
# two others is a number, too.
WHOLE: Final = 2**53
LARGE: Final = 1e100
PositiveInt = Annotated[int, Range(least=1, most=WHOLE)]
NonNegativeInt = Annotated[int, Range(least=0, most=WHOLE)]
PositiveFloat = Annotated[float, Range(above=0, most=LARGE)]
NonNegativeFloat = Annotated[float, Range(least=0, most=LARGE)]
Probability = Annotated[float, Range(above=0, most=1)]
Decay = Annotated[float, Range(least=0, most=0.999999)]
Factor = Annotated[float, Range(least=1, most=1e15)]  # a slow-down: 1 is full speed
Amount = Annotated[float, Range(above=0, most=1e9)]  # of seconds: 31 years; or of epochs
Switch = Annotated[int, Range(least=0, most=1)]  # `key=1` turns it on
Seed = Annotated[int, Range(least=0, most=2**32 - 1)]  # one word of a NumPy seed, see `streams`


def parse(text: str, catalogue: Mapping[str, type[T]], what: str) -> T:
    """The dataclass instance that a SPEC means; `what` names the flag in errors.

    Only the first `:` and the first `=` of a pair split, so a path may hold both.

    >>> @dataclass(frozen=True)
    ... class Fixed:
    ...     rank: tuple[int, ...]
    ...     factor: Factor
    >>> parse("fixed:rank=0+3,factor=10", {"fixed": Fixed}, "--stragglers")
    Fixed(rank=(0, 3), factor=10.0)

    Raises UserError: unknown name or key, missing key, malformed value, value out of range.
    """
    name, _, rest = text.partition(":")
    if name not in catalogue:
        raise UserError(f"{what}: unknown name '{name}'; allowed: {', '.join(catalogue)}")
    kind = catalogue[name]
    hints = {_key(field): hint for field, hint in _hints(kind).items()}
    values: dict[str, Any] = {}
    for pair in rest.split(",") if rest else []:
        key, equals, value = pair.partition("=")
        if key not in hints:
            raise UserError(f"{what} {name}: unknown key '{key}'; allowed: {', '.join(hints) or 'none'}")
        if not equals or not value:
            raise UserError(f"{what} {name}: '{pair}' is not of the form key=value")
        if key in values:
            raise UserError(f"{what} {name}: key '{key}' given twice")
        values[key] = _convert(value, hints[key], f"{what} {name}: {key}")
    needed = [_key(f.name) for f in fields(kind) if f.default is MISSING]  # type: ignore[arg-type]
    missing = [key for key in needed if key not in values]
    if missing:
        raise UserError(f"{what} {name}: needs {', '.join(key + '=' for key in missing)}")
    spec = kind(**{key.replace("-", "_"): value for key, value in values.items()})
    check(spec, lambda field: f"{what} {name}: {_key(field)}")
    return spec


def plain_number(text: str) -> int | None:
    """The number that decimal digits stand for, and nothing but digits; None for any other text, and above WHOLE.

    >>> [plain_number(text) for text in ("12", "-1", "²", "9" * 5000)]
    [12, None, None, None]
    """
    number = int(text) if re.fullmatch("[0-9]{1,16}", text) else WHOLE + 1
    return number if number <= WHOLE else None


def forms(catalogue: Mapping[str, type[Any]]) -> list[str]:
    """The SPECs of a catalogue as a person would write them, for help texts: every name with its keys, and the values
    that keys without a default of None have by themselves.

    >>> @dataclass(frozen=True)
    ... class Random:
    ...     p: Probability
    ...     factor: Factor = 2.0
    >>> forms({"random": Random})
    ['random:p=,factor=2']
    """
    return [name + ":"[: len(fields(kind))] + ",".join(map(_form, fields(kind))) for name, kind in catalogue.items()]


def _form(key: Any) -> str:
    empty = key.default is MISSING or key.default is None
    return f"{key.name}={'' if empty else _text(key.default)}"


def render(spec: Any, catalogue: Mapping[str, type[Any]]) -> str:
    """The SPEC text of a parsed SPEC with every default written out, so that equal SPECs are equal text."""
    name = next(name for name, kind in catalogue.items() if type(spec) is kind)
    values = []
    for f in fields(spec):
        value = getattr(spec, f.name)
        if value is None:
            continue
        parts = value if isinstance(value, tuple) else (value,)
        values.append(f"{_key(f.name)}={'+'.join(map(_text, parts))}")
    return name + (":" + ",".join(values) if values else "")


def inputs(spec: Any) -> list[str]:
    """The files that a parsed SPEC names.

    >>> @dataclass(frozen=True)
    ... class Libsvm:
    ...     path: InputFile
    ...     penalty: str = "l2"
    >>> inputs(Libsvm("a.svm"))
    ['a.svm']
    """
    files = []
    for key, hint in _hints(type(spec)).items():
        files += [extra.file(getattr(spec, key)) for extra in get_args(hint) if isinstance(extra, Input)]
    return list(filter(None, files))


def check(config: Any, label: Any = lambda field: "--" + _key(field)) -> None:
    """Raise UserError for the first field outside its `Range` or `Literal`; `label(field)` names it."""
    for key, hint in _hints(type(config)).items():
        value = getattr(config, key)
        if value is None:
            continue
        base, extras = _split(hint)
        if get_origin(base) is Literal and value not in get_args(base):
            allowed = ", ".join(map(str, get_args(base)))
            raise UserError(f"{label(key)} is '{value}'; allowed: {allowed}")
        for bound in (extra for extra in extras if isinstance(extra, Range)):
            for number in value if isinstance(value, tuple) else (value,):
                if not bound.holds(number):
                    rule = bound if math.isfinite(number) else "finite"
                    raise UserError(f"{label(key)} is {_text(number)}; it must be {rule}")


def _key(field: str) -> str:
    return field.replace("_", "-")


def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {f.name: hints[f.name] for f in fields(kind)}


def _split(hint: Any) -> tuple[Any, list[Any]]:
    """A field's plain type and what it is annotated with, a tuple's items included, with `None |` and `Annotated` taken
    off."""
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (option for option in get_args(hint) if option is not type(None))
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        base, others = _split(hint)
        return base, extras + others
    if get_origin(hint) is tuple:
        return hint, _split(get_args(hint)[0])[1]
    return hint, []


def _text(value: Any) -> str:
    """The shortest text that reads back as the same value: 10 for 10.0."""
    return repr(float(value)).removesuffix(".0") if isinstance(value, float) else str(value)


def _convert(text: str, hint: Any, label: str) -> Any:
    base, extras = _split(hint)
    if get_origin(base) is tuple:
        return tuple(_convert(part, get_args(base)[0], label) for part in text.split("+"))
    for quantity in (extra for extra in extras if isinstance(extra, Quantity)):
        return quantity.read(text, label)
    try:
        if base is int:
            number = float(text)  # 1e6 is an integer to a person
            if number != int(number):
                raise ValueError
            return int(text) if text.lstrip("+-").isdigit() else int(number)
        return base(text) if base in (float, str) else text
    except (ValueError, OverflowError):
        form = "a whole number" if base is int else "a number"
        raise UserError(f"{label} is '{text}', not {form}") from None
