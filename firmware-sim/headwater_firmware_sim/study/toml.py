"""Tables as TOML text, which the standard library only reads."""

import json
import math
import re
from collections.abc import Mapping
from typing import Final

BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


def format_toml(table: Mapping[str, object]) -> str:
    """One key a line; tables inside are inline, so that the order of keys is kept.

    Raises:
        TypeError: If a value is a date or nothing that TOML knows.
    """
    return "".join(f"{_key(name)} = {format_value(value)}\n" for name, value in table.items())


def format_value(value: object) -> str:
    """A value as it stands right of a `=`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(value) if math.isfinite(value) else f"{value}".removesuffix("inity")
    if isinstance(value, str):
        # JSON leaves U+007F as it is, and TOML wants it escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(format_value(entry) for entry in value)}]"
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(name)} = {format_value(held)}" for name, held in value.items())
        return f"{{{inside}}}"
    raise TypeError(f"{type(value).__name__} has no TOML here")


def is_toml(value: object) -> bool:
    """Whether `format_value` writes it."""
    if isinstance(value, list | tuple):
        return all(is_toml(entry) for entry in value)
    if isinstance(value, Mapping):
        return all(is_toml(entry) for entry in value.values())
    return isinstance(value, bool | int | float | str)


def _key(name: str) -> str:
    return name if BARE.fullmatch(name) else format_value(name)
