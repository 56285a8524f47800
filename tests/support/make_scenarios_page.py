"""Writes docs/scenarios.md from the docstrings of the scenario's sections."""

import ast
import dataclasses
import inspect
import sys
import types
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Union, get_args, get_origin, get_type_hints

from headwater_firmware_sim.scenario import kinds, model

PAGE = Path(__file__).parents[2] / "docs" / "scenarios.md"
SECTIONS = (
    ("", model.Scenario),
    ("[network]", model.Network),
    ("[task]", model.Task),
    ("[[next_task]]", model.NextTask),
    ("[data]", model.Data),
    ("[data.partition]", model.Partition),
    ("[[fleet]]", model.DeviceClass),
    ("[churn]", model.Churn),
    ("[[faults]]", model.Fault),
    ("[[attackers]]", model.Attackers),
    ("[delegates]", model.Delegates),
    ("[economy]", model.Economy),
    ("[output]", model.Output),
)
HEAD = """\
# Scenarios

A scenario is a TOML file: what a network consists of, what it trains, and what happens to it.
`headwater-sim run FILE` runs it in virtual time, and the same seed gives the same ledgers byte for
byte; `--live` runs it on a real broker, where wires, power and clocks are real, and refuses keys
that only a simulation can follow. Examples are in [examples/scenarios](../examples/scenarios).

Unknown keys are refused. An error is one line with the file, the line, the key and the fix, and
nothing is written then. This page is made from the code by
`python -m tests.support.make_scenarios_page`.
"""


def read_notes(module: types.ModuleType) -> dict[tuple[str, str], str]:
    """The string under each field and member, by class and name."""
    notes: dict[tuple[str, str], str] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for before, after in zip(node.body, node.body[1:], strict=False):
            text = after.value if isinstance(after, ast.Expr) else None
            if not isinstance(text, ast.Constant) or not isinstance(text.value, str):
                continue
            target = before.target if isinstance(before, ast.AnnAssign) else None
            if isinstance(before, ast.Assign):
                target = before.targets[0]
            if isinstance(target, ast.Name):
                notes[(node.name, target.id)] = " ".join(text.value.split())
    return notes


def format_default(field: "dataclasses.Field[object]") -> str:
    if field.default_factory is not dataclasses.MISSING:
        return ""
    if field.default is dataclasses.MISSING:
        return "needed"
    value = field.default
    if value is None or value == () or dataclasses.is_dataclass(value):
        return ""
    if isinstance(value, tuple):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def format_type(hint: object) -> str:
    if get_origin(hint) in {Union, types.UnionType}:
        hint = next(one for one in get_args(hint) if one is not types.NoneType)
    bounds = ""
    if get_origin(hint) is Annotated:
        bounds = f", {get_args(hint)[1]}"
        hint = get_args(hint)[0]
    names = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return ", ".join(f"`{member.value}`" for member in hint)
    return names.get(hint, "") + bounds  # type: ignore[call-overload]


def make_page() -> str:
    notes = {**read_notes(model), **read_notes(kinds)}
    parts = [HEAD]
    enums: list[type[StrEnum]] = []
    for title, section in SECTIONS:
        parts.append(f"\n## {'First table' if not title else f'`{title}`'}\n\n{section.__doc__}\n")
        parts.append("\n| key | value | default | |\n|---|---|---|---|\n")
        hints = get_type_hints(section, include_extras=True)
        for field in dataclasses.fields(section):
            kind = format_type(hints[field.name])
            if not kind:
                continue
            note = notes.get((section.__name__, field.name), "")
            parts.append(f"| `{field.name}` | {kind} | {format_default(field)} | {note} |\n")
            hint = hints[field.name]
            if isinstance(hint, type) and issubclass(hint, StrEnum) and hint not in enums:
                enums.append(hint)
    for enum in enums:
        rows = [(one.value, notes.get((enum.__name__, one.name), "")) for one in enum]
        if any(note for _, note in rows):
            parts.append(f"\n## {enum.__name__}\n\n{enum.__doc__}\n\n| word | |\n|---|---|\n")
            parts.extend(f"| `{word}` | {note} |\n" for word, note in rows)
    return "".join(parts)


if __name__ == "__main__":
    if "--print" in sys.argv:
        sys.stdout.write(make_page())
    else:
        PAGE.write_text(make_page(), encoding="utf-8")
