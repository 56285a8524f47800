"""`result.json`: a `RunResult` as JSON, one row a line, and back.

The rows of devices by round stand in `device_rounds.csv` alone, because they are most of a large
run and few readers want them.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import IO, Final, TypeVar, cast, get_args, get_origin, get_type_hints

from headwater_firmware_sim.results import JsonValue, RunResult
from headwater_protocol.errors import ConfigError

LEFT_OUT: Final = frozenset({"device_rounds"})

RowT = TypeVar("RowT")


def write_result(result: RunResult, stream: IO[bytes]) -> None:
    """Write `result.json`."""
    for line in _lines(result):
        stream.write(line.encode())


def _lines(result: RunResult) -> Iterator[str]:
    names = [entry.name for entry in fields(RunResult) if entry.name not in LEFT_OUT]
    yield "{\n"
    for name in names:
        value = getattr(result, name)
        end = "\n" if name == names[-1] else ",\n"
        if isinstance(value, tuple) and value:
            yield f'  "{name}": [\n'
            for index, row in enumerate(value):
                yield f"    {_dump(row)}{',' if index + 1 < len(value) else ''}\n"
            yield f"  ]{end}"
        else:
            yield f'  "{name}": {_dump(value)}{end}'
    yield "}\n"


def _dump(value: object) -> str:
    return json.dumps(to_json(value), ensure_ascii=False, allow_nan=False)


def to_json(value: object) -> JsonValue:
    """A value of a result as JSON has it; what is not a finite number becomes null."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(entry) for entry in value]
    if is_dataclass(value):
        return {entry.name: to_json(getattr(value, entry.name)) for entry in fields(value)}
    raise TypeError(f"{type(value).__name__} does not go into result.json")


def parse_result(text: str, *, where: str) -> RunResult:
    """What `write_result` wrote, without its `device_rounds`.

    Args:
        text: Content of the file.
        where: Names the file in errors.

    Raises:
        ConfigError: If it is not the JSON of a run, with the first key that is wrong.
    """
    try:
        value: JsonValue = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(where, f"is not JSON: {error}", fix="run the scenario again") from error
    if isinstance(value, dict):
        value["device_rounds"] = []
    return _parse_row(RunResult, value, where)


def _parse_row(kind: type[RowT], value: JsonValue, where: str) -> RowT:
    hints = get_type_hints(kind)
    if not isinstance(value, dict):
        raise _not_a_run(where, "is no object")
    missing = sorted(hints.keys() - value.keys())
    if missing:
        raise _not_a_run(where, f"has no {missing[0]}")
    return kind(
        **{name: _parse(hint, value[name], f"{where}: {name}") for name, hint in hints.items()}
    )


def _parse(hint: object, value: JsonValue, where: str) -> object:
    if get_origin(hint) is tuple and isinstance(value, list):
        kind = cast("type[object]", get_args(hint)[0])
        return tuple(_parse_row(kind, row, f"{where}[{i}]") for i, row in enumerate(value))
    if get_origin(hint) is Mapping and isinstance(value, dict):
        kind = get_args(hint)[1]
        if kind not in {int, str}:
            return value
        return {key: _parse(kind, entry, f"{where}.{key}") for key, entry in value.items()}
    if isinstance(hint, type) and is_dataclass(hint):
        return _parse_row(hint, value, where)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint == float | None and (value is None or is_number):
        return value if value is None else float(cast("float", value))
    is_exact = isinstance(hint, type) and type(value) is hint
    if not is_exact:
        raise _not_a_run(where, f"is {json.dumps(value)[:40]}")
    return value


def _not_a_run(where: str, problem: str) -> ConfigError:
    return ConfigError(where, problem, fix="name the folder of a run of this version")
