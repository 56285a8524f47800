"""A scenario as plain values, with all its defaults filled in."""

import dataclasses
from enum import Enum

from headwater_firmware_sim.results import JsonValue
from headwater_firmware_sim.scenario.model import Scenario


def to_json(scenario: Scenario) -> dict[str, JsonValue]:
    """Every key with its value; keys that were left out and have no default are null."""
    table = _plain(scenario)
    if not isinstance(table, dict):
        raise TypeError("a scenario is a table")
    return table


def _plain(value: object) -> JsonValue:
    if isinstance(value, Enum):
        return str(value.value)
    if dataclasses.is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} is no value of a scenario")
