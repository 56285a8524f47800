"""From a TOML file to a `Scenario`; an error is one line with the key, its line and the fix."""

import dataclasses
import difflib
import math
import re
import tomllib
import types
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from headwater_firmware_sim.scenario.bounds import Between
from headwater_firmware_sim.scenario.lines import Path as KeyPath
from headwater_firmware_sim.scenario.lines import find_lines
from headwater_firmware_sim.scenario.model import MAX_CLASSES, Scenario
from headwater_firmware_sim.scenario.rules import Problem, find_problem
from headwater_protocol.errors import ConfigError

MAX_SCENARIO_BYTES: Final = 1024 * 1024

R = TypeVar("R")

Check = Callable[[Scenario], Problem | None]
"""Says what is wrong with a scenario for some use of it."""


class ScenarioError(ConfigError):
    """A scenario cannot be used."""

    def __init__(self, key: str, problem: str, *, fix: str, file: str, line: int | None) -> None:
        place = file if line is None else f"{file}, line {line}"
        super().__init__(f"{place}: {key}" if key else place, problem, fix=fix)
        self.line = line


def load_scenario(path: Path, *, check: Check | None = None) -> Scenario:
    """Read and check a scenario.

    Args:
        path: A TOML file.
        check: Of what the scenario is for, after all other checks.

    Raises:
        ScenarioError: If the file cannot be read, or anything in it cannot be used.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SCENARIO_BYTES + 1)
    except OSError as error:
        raise ScenarioError(
            "", error.strerror or "cannot be read", fix="check the path", file=str(path), line=None
        ) from None
    if len(data) > MAX_SCENARIO_BYTES:
        raise ScenarioError(
            "",
            f"has more than {MAX_SCENARIO_BYTES} bytes",
            fix="move data into files of their own",
            file=str(path),
            line=None,
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ScenarioError(
            "", "is no UTF-8 text", fix="save it as UTF-8", file=str(path), line=None
        ) from None
    return parse_scenario(text, file=str(path), folder=path.parent, check=check)


def parse_scenario(
    text: str,
    *,
    file: str = "scenario",
    folder: Path | None = None,
    check: Check | None = None,
) -> Scenario:
    """As `load_scenario`, from a text.

    Args:
        text: TOML.
        file: For messages.
        folder: What paths are relative to; None takes the current one.
        check: As for `load_scenario`.

    Raises:
        ScenarioError: If anything in it cannot be used.
    """
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        match = re.search(r"\(at line (\d+)", str(error))
        raise ScenarioError(
            "",
            re.sub(r" \(at [^)]*\)", "", str(error)) or "nests too deep",
            fix="correct the TOML",
            file=file,
            line=None if match is None else int(match[1]),
        ) from None
    reader = _Reader(file=file, lines=find_lines(text))
    scenario = reader.read(Scenario, table, ())
    problem = find_problem(scenario, Path() if folder is None else folder)
    if problem is None and check is not None:
        problem = check(scenario)
    if problem is not None:
        raise reader.error(problem.path, problem.problem, fix=problem.fix)
    return scenario


class _Reader:
    """Builds dataclasses out of tables, by their annotations."""

    def __init__(self, *, file: str, lines: Mapping[KeyPath, int]) -> None:
        self._file = file
        self._lines = lines

    def error(self, path: KeyPath, problem: str, *, fix: str) -> ScenarioError:
        """The error about the key at `path`; a key that is missing has its table's line."""
        known = path
        while known and known not in self._lines:
            known = known[:-1]
        return ScenarioError(
            _format_path(path), problem, fix=fix, file=self._file, line=self._lines.get(known)
        )

    def read(self, kind: type[R], table: object, path: KeyPath) -> R:
        """The dataclass `kind` out of `table`."""
        if not isinstance(table, dict):
            raise self.error(path, f"is {_name(table)}", fix=f"write a table, [{path[-1]}]")
        if not dataclasses.is_dataclass(kind):
            raise TypeError(f"{kind} is no section")
        hints = get_type_hints(kind, include_extras=True)
        fields = dataclasses.fields(kind)
        for key in table:
            if key not in hints:
                close = difflib.get_close_matches(key, hints, n=1)
                fix = f"write {close[0]}" if close else f"use one of {', '.join(sorted(hints))}"
                raise self.error((*path, key), "is no key", fix=fix)
        values: dict[str, object] = {}
        for entry in fields:
            if entry.name in table:
                values[entry.name] = self._value(
                    hints[entry.name], table[entry.name], (*path, entry.name)
                )
            elif (
                entry.default is dataclasses.MISSING
                and entry.default_factory is dataclasses.MISSING
            ):
                raise self.error((*path, entry.name), "is missing", fix=f"add {entry.name} = …")
        return cast(Callable[..., R], kind)(**values)

    def _value(self, hint: object, value: object, path: KeyPath) -> object:
        bounds: Between | None = None
        origin = get_origin(hint)
        if origin in {Union, types.UnionType}:
            hint = next(one for one in get_args(hint) if one is not types.NoneType)
            origin = get_origin(hint)
        if origin is Annotated:
            hint, bounds = get_args(hint)[0], get_args(hint)[1]
        if get_origin(hint) is tuple:
            return self._list(cast(type[object], get_args(hint)[0]), value, path)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            return self.read(hint, value, path)
        if isinstance(hint, type) and issubclass(hint, StrEnum):
            return self._choice(hint, value, path)
        return self._scalar(hint, value, bounds, path)

    def _list(self, kind: type[object], value: object, path: KeyPath) -> tuple[object, ...]:
        if not isinstance(value, list):
            raise self.error(path, f"is {_name(value)}", fix=f"write [[{path[-1]}]]")
        if len(value) > MAX_CLASSES:
            raise self.error(path, f"has {len(value)} entries", fix=f"{MAX_CLASSES} at the most")
        return tuple(self.read(kind, item, (*path, index)) for index, item in enumerate(value))

    def _choice(self, kind: type[StrEnum], value: object, path: KeyPath) -> StrEnum:
        names = [member.value for member in kind]
        if not isinstance(value, str) or value not in names:
            raise self.error(path, f"is {value!r}", fix=f"use one of {', '.join(names)}")
        return kind(value)

    def _scalar(
        self, hint: object, value: object, bounds: Between | None, path: KeyPath
    ) -> bool | int | float | str:
        if hint is bool:
            if not isinstance(value, bool):
                raise self.error(path, f"is {_name(value)}", fix="write true or false")
            return value
        if hint is str:
            if not isinstance(value, str):
                raise self.error(path, f"is {_name(value)}", fix="write a text in quotes")
            return value
        allowed = f" from {bounds}" if bounds is not None else ""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if hint is int and not (is_number and isinstance(value, int)):
            raise self.error(path, f"is {_name(value)}", fix=f"write a whole number{allowed}")
        if not is_number or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(path, f"is {_name(value)}", fix=f"write a number{allowed}")
        if bounds is not None and not bounds.lowest <= value <= bounds.highest:
            raise self.error(path, f"is {value}", fix=f"write a number{allowed}")
        return value if hint is int else float(value)


def _format_path(path: KeyPath) -> str:
    text = ""
    for key in path:
        text += f"[{key + 1}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def _name(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, dict):
        return "a table"
    return "an array" if isinstance(value, list) else str(value)
