"""What may stand in a sweep's TOML: plain texts, numbers, tables of the expected form. Refusals are UserErrors."""

from typing import Any, Final

from outpace.comm.errors import UserError

INT64: Final = 2**63
NAMES: Final = {int: "a whole number", str: "a text", dict: "a table", list: "an array of tables"}

Values = dict[str, list[Any]]  # of every key, those that it takes in turn


def check_plain(value: Any, where: str = "") -> None:
    """Refuse texts, keys too, that do not fit on a line of a manifest or into a command line, and numbers past TOML's
    range."""
    if isinstance(value, str) and not value.isprintable():
        raise UserError(f"{where}: {value!a} holds a character that cannot be printed, such as an end of line")
    if isinstance(value, int) and not -INT64 <= value < INT64:
        raise UserError(f"{where}: a whole number of {value.bit_length()} bits; the largest has 63")
    if isinstance(value, dict):
        for key, each in value.items():
            check_plain(key, where or "a key")
            check_plain(each, f"{where}.{key}" if where else key)
    if isinstance(value, list):
        for each in value:
            check_plain(each, where)


def typed(table: dict[str, Any], key: str, kind: type, default: Any) -> Any:
    value = table.get(key, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"{key} is {value!r}; it must be {NAMES[kind]}")
    return value


def tables_of(table: dict[str, Any], key: str) -> list[Any]:
    found = typed(table, key, list, [])
    if not all(isinstance(each, dict) for each in found):
        raise UserError(f"{key} must be an array of tables, each headed [[{key}]]")
    return list(found)


def values_of_table(table: Any, where: str) -> Values:
    if not isinstance(table, dict):
        raise UserError(f"{where} must be a table")
    found: Values = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if name in found:
            raise UserError(f"{where}: {name} is given twice, with - and with _")
        found[name] = values_of(value, f"{where}: {key}")
    return found


def values_of(value: Any, where: str) -> list[Any]:
    """A list of plain values; one value is a list of one."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    for each in values:
        if not isinstance(each, str | int | float):
            raise UserError(f"{where} is {each!r}; it must be a text, a number, true or false, or a list of these")
    if isinstance(value, list) and not value:
        raise UserError(f"{where} is an empty list")
    return values
