"""Where a value of the configuration comes from: command line over environment over file.

`HEADWATER_AGENT_<KEY>` and `HEADWATER_AGENT_<TABLE>_<KEY>` name the keys of `agent.toml`; on the
command line it is `--set table.key=value`. A variable with the prefix that names no key is refused:
a misspelt limit that is silently ignored is worse than none.
"""

import difflib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from headwater_agent.config import AgentConfig, parse_config, read_values
from headwater_agent.config_template import list_keys
from headwater_protocol.errors import ConfigError

PREFIX: Final = "HEADWATER_AGENT_"
FILE_VARIABLE: Final = PREFIX + "CONFIG"
"""Names the file itself."""
MASK: Final = "********"
SECRET_WORDS: Final = frozenset({"password", "secret", "token", "seed", "passphrase"})
"""A key that holds one of these words is masked, unless it names a file."""

Name = tuple[str, str]
"""Table and key; the root's table is ""."""


class Source(StrEnum):
    """Who said it, from the weakest to the strongest."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    COMMAND_LINE = "command line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One value in force."""

    name: str
    """As in `--set`."""
    value: object
    source: Source
    detail: str
    """The file, the variable or the option."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layered:
    """A configuration, and where its values come from."""

    config: AgentConfig
    settings: tuple[Setting, ...]


def load_layers(
    path: Path, *, environment: Mapping[str, str], options: Iterable[str] = ()
) -> Layered:
    """The configuration in force.

    Args:
        path: Of the file.
        environment: Of the process.
        options: From the command line, each `table.key=value`.

    Raises:
        ConfigError: Names the key and the fix.
    """
    found = read_values(path)
    known = list_keys()
    values = deepcopy(found)
    origins = {name: (Source.FILE, str(path)) for name in _names_in(found, known)}
    for name, text, variable in _from_environment(environment, known):
        _put(values, name, _parse(text, known[name], variable))
        origins[name] = (Source.ENVIRONMENT, variable)
    for option in options:
        name, text = _parse_option(option, known)
        _put(values, name, _parse(text, known[name], f"--set {_dotted(name)}"))
        origins[name] = (Source.COMMAND_LINE, f"--set {_dotted(name)}")
    config = parse_config(values, folder=path.parent)
    settings = []
    for name in known:
        source, detail = origins.get(name, (Source.DEFAULT, ""))
        value = _default(config, name) if source is Source.DEFAULT else _get(values, name)
        settings.append(
            Setting(name=_dotted(name), value=_mask(name[1], value), source=source, detail=detail)
        )
    return Layered(config=config, settings=tuple(settings))


def variable_of(name: Name) -> str:
    """The environment's name of a key."""
    return PREFIX + "_".join(part for part in name if part).upper().replace(".", "_")


def _from_environment(
    environment: Mapping[str, str], known: Mapping[Name, object]
) -> list[tuple[Name, str, str]]:
    variables = {variable_of(name): name for name in known}
    found = []
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or variable == FILE_VARIABLE:
            continue
        if variable not in variables:
            raise ConfigError(
                variable, "names no key of agent.toml", fix=_suggest(variable, list(variables))
            )
        found.append((variables[variable], environment[variable], variable))
    return found


def _parse_option(option: str, known: Mapping[Name, object]) -> tuple[Name, str]:
    dotted, equals, text = option.partition("=")
    if not equals:
        raise ConfigError(f"--set {option[:80]}", "has no value", fix="write --set table.key=value")
    table, _, key = dotted.strip().rpartition(".")
    if (table, key) not in known:
        names = [_dotted(name) for name in known]
        raise ConfigError(
            f"--set {dotted}", "names no key of agent.toml", fix=_suggest(dotted, names)
        )
    return (table, key), text.strip()


def _parse(text: str, example: object, origin: str) -> object:
    """A text as the type that the key has in the template."""
    if isinstance(example, bool):
        if text not in {"true", "false"}:
            raise ConfigError(origin, f"is {text!r}", fix="give true or false")
        return text == "true"
    if isinstance(example, int):
        try:
            return int(text)
        except ValueError:
            raise ConfigError(origin, f"is {text!r}", fix="give a whole number") from None
    if isinstance(example, float):
        try:
            return float(text)
        except ValueError:
            raise ConfigError(origin, f"is {text!r}", fix="give a number") from None
    if isinstance(example, list):
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return [_parse(part, example[0], origin) for part in parts] if example else parts
    return text


def _put(values: dict[str, object], name: Name, value: object) -> None:
    table, key = name
    for part in filter(None, table.split(".")):
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(part, f"is {inner!r}", fix=f"write it as [{table}]")
        values = inner
    values[key] = value


def _get(values: Mapping[str, object], name: Name) -> object:
    table, key = name
    inner: object = values
    for part in (*filter(None, table.split(".")), key):
        inner = inner.get(part) if isinstance(inner, Mapping) else None
    return inner


def _names_in(
    values: Mapping[str, object], known: Mapping[Name, object], table: str = ""
) -> list[Name]:
    names: list[Name] = []
    for key, value in values.items():
        # Some keys take a table for a value, such as data.label.
        if isinstance(value, dict) and (table, key) not in known:
            names += _names_in(value, known, f"{table}.{key}" if table else key)
        else:
            names.append((table, key))
    return names


def _default(config: AgentConfig, name: Name) -> object:
    """What is in force without being said, where that is one plain value."""
    table, key = name
    named = getattr(config, table, None) if table else config
    for holder in (named, getattr(named, "memory", None), config):
        value = getattr(holder, key, None)
        if isinstance(value, int | float | str):
            return value
    return None


def _mask(key: str, value: object) -> object:
    words = set(key.split("_"))
    is_secret = bool(words & SECRET_WORDS) and not words & {"file", "path"}
    return MASK if is_secret and value is not None else value


def _suggest(wrong: str, names: list[str]) -> str:
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else "headwater-agent config show lists the keys"


def _dotted(name: Name) -> str:
    return ".".join(part for part in name if part)
