"""Machines for the simulation: how long a byte, a message and a pass take, as a TOML file, which `outpace calibrate`
writes, or by the name of a preset."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, get_args, get_origin, get_type_hints

from outpace.comm import inputs, spec
from outpace.comm.collectives import Algorithm
from outpace.comm.errors import UserError
from outpace.comm.presets import PRESETS
from outpace.comm.spec import LARGE, NonNegativeFloat, NonNegativeInt, PositiveInt

Numbers = Mapping[str, float]
Texts = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ByPattern:
    """A number for each pattern of flows: one each way between two ranks; several at both ends, as of neighbours in a
    graph; an Allreduce; several into one rank, or out of it, as at a server."""

    duplex: NonNegativeFloat
    neighbours: NonNegativeFloat
    allreduce: NonNegativeFloat
    incast: NonNegativeFloat


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the simulation must know of a machine. Seconds, bytes."""

    name: str
    source: str  # where the numbers come from
    gap_s_per_byte: ByPattern  # of a port of a rank, each way
    latency_s: ByPattern  # of a message, of a round of a collective
    cpu_per_message_s: NonNegativeFloat  # of the rank that sends or receives it
    pass_s_per_byte: NonNegativeFloat  # of a pass over a vector
    oversleep_s: NonNegativeFloat = 0.0  # what a sleep takes beyond what was asked for
    jitter: NonNegativeFloat = 0.3  # standard deviation of the logarithm of a flow's share of a port
    packet_bytes: PositiveInt = 8_192  # how much goes through a port in a turn
    eager_bytes: NonNegativeInt = 65_536  # of a message that travels while its ranks are outside MPI
    allreduce: Algorithm = "halving"  # of long vectors
    links: str = "none"  # the SPEC of --links behind which it was measured
    compute_s_per_sample: Numbers = field(default_factory=dict)  # by problem
    spread: Numbers = field(default_factory=dict)  # of measured numbers: half the distance of quartiles over the median
    stated_error: Texts = field(default_factory=dict)  # of its predictions, by kind of setting

    def to_toml(self) -> str:
        """What `parse` reads as the same machine."""
        lines, tables = [], []
        for key in fields(self):
            value = getattr(self, key.name)
            if isinstance(value, ByPattern):
                value = asdict(value)
            if not isinstance(value, Mapping):
                lines.append(_line(key.name, value))
            elif value:
                tables.append(f"\n[{key.name}]\n" + "".join(_line(_quoted(k), each) for k, each in value.items()))
        return "".join(lines + tables)


def read(text: str) -> Machine:
    """The preset of this name, or what the file says. Raises UserError for what is neither, with what is wrong."""
    if text in PRESETS:
        return parse(PRESETS[text], f"preset {text}: ")
    if not Path(text).exists():
        raise UserError(f"machine {text}: no such file, and no preset; presets: {', '.join(PRESETS)}")
    return parse(inputs.text(text, "machine "), f"machine {text}: ")


def parse(text: str, what: str = "machine: ") -> Machine:
    """A machine as TOML; `what` begins errors."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{what}{error}") from None
    machine: Machine = _build(Machine, table, what)
    return machine


def _line(key: str, value: Any) -> str:
    return f"{key} = {_quoted(value) if isinstance(value, str) else repr(value)}\n"


def _quoted(text: str) -> str:
    """TOML's basic strings are JSON's. What a terminal would not show is spelled out."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)


def _build(kind: type[Any], table: Mapping[str, Any], what: str, path: str = "") -> Any:
    hints = get_type_hints(kind)
    for key in table:
        if key not in hints:
            raise UserError(f"{what}unknown key '{path}{key}'; allowed: {', '.join(hints)}")
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [path + key for key in needed if key not in table]:
        raise UserError(f"{what}needs {', '.join(missing)}")
    built = kind(**{key: _value(hints[key], value, what, path + key) for key, value in table.items()})
    spec.check(built, lambda key: f"{what}{path}{key}")
    return built


def _value(hint: Any, value: Any, what: str, path: str) -> Any:
    table = get_origin(hint) is Mapping or is_dataclass(hint)
    types, name = ((dict,), "a table") if table else FORMS.get(hint, FORMS[str])
    right: bool = isinstance(value, types) and not isinstance(value, bool)
    if not right or (hint in (int, float) and not 0 <= value <= LARGE):
        raise UserError(f"{what}{path} is {value!r}; it must be {name}")
    if is_dataclass(hint):
        return _build(hint, value, what, f"{path}.")  # type: ignore[arg-type]
    if table:
        return {key: _value(get_args(hint)[1], each, what, f"{path}.{key}") for key, each in value.items()}
    return float(value) if hint is float else value


FORMS: Final[dict[Any, tuple[tuple[type, ...], str]]] = {
    float: ((int, float), "a number, at least 0"),
    int: ((int,), "a whole number, at least 0"),
    str: ((str,), "a text"),
}
