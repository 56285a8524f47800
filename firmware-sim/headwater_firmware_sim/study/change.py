"""Changing keys of a scenario before it is checked."""

import tomllib
from pathlib import Path

from headwater_firmware_sim.scenario.model import Scenario
from headwater_firmware_sim.scenario.reader import ScenarioError, parse_scenario
from headwater_firmware_sim.study.toml import format_toml
from headwater_protocol.errors import ConfigError


def read_toml(path: Path) -> dict[str, object]:
    """A file's top table.

    Raises:
        ConfigError: If the file cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = (error.strerror or "cannot be read").lower()
        raise ConfigError(str(path), problem, fix="check the path") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(path), f"{error}", fix="correct the TOML") from error


def put(table: dict[str, object], key: str, value: object, *, where: str) -> None:
    """Set the entry at a dotted key; a table on the way is made, an entry of a list is not.

    Args:
        table: Of a scenario; changed.
        key: `seed`, `task.bits`, `attackers.0.share`.
        value: What to put there; the scenario's reader checks it.
        where: Names the key in errors.

    Raises:
        ConfigError: If the key leads nowhere.
    """
    parts = key.split(".")
    at: object = table
    for index, part in enumerate(parts):
        is_last = index + 1 == len(parts)
        if isinstance(at, list):
            if not part.isdecimal() or int(part) >= len(at):
                raise ConfigError(
                    where,
                    f"the scenario has no entry {part} in {'.'.join(parts[:index])}",
                    fix="add it to the scenario",
                )
            if is_last:
                at[int(part)] = value
            at = at[int(part)]
        elif isinstance(at, dict):
            if is_last:
                at[part] = value
            at = at.setdefault(part, {})
        else:
            raise ConfigError(
                where,
                f"{'.'.join(parts[:index])} is no table",
                fix="name a key of the scenario",
            )


def check_changed(table: dict[str, object], *, file: str, folder: Path) -> tuple[str, Scenario]:
    """The text of a changed scenario, and the scenario itself.

    Args:
        table: With the changes.
        file: Says in errors what was changed how.
        folder: What paths in it are relative to.

    Raises:
        ConfigError: If it cannot be used.
    """
    try:
        text = format_toml(table)
    except TypeError as error:
        raise ConfigError(file, str(error), fix="give numbers, texts or lists") from None
    try:
        return text, parse_scenario(text, file=file, folder=folder)
    except ScenarioError as error:
        # The line is that of a text that nobody has seen.
        key = error.key.replace(f", line {error.line}", "", 1)
        raise ConfigError(key, error.problem, fix=error.fix) from None
