"""What sensors write into their MQTT payloads, read as numbers, labels and times.

Zigbee2MQTT sends one JSON object a device with numbers, truth values and texts; ESPHome sends each
sensor's value as plain text on a topic of its own, `nan` while it has none, and ON or OFF for a
binary sensor. Both may retain.
"""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from headwater_protocol.errors import BadEncoding, OutOfBounds, TooLarge

MAX_SENSOR_PAYLOAD_BYTES: Final = 64 * 1_024

STATES: Final[Mapping[str, float]] = MappingProxyType(
    {"on": 1.0, "off": 0.0, "true": 1.0, "false": 0.0, "open": 1.0, "closed": 0.0}
)
"""Words that count as a number."""

MAX_FLOAT32: Final = 3.4028234e38
FIRST_MS: Final = 10**11
"""A timestamp below is in seconds: as milliseconds it would lie before 1973."""
MAX_TIME_MS: Final = 10**14


class BadPayload(BadEncoding):
    """A payload has no such value."""


def decode_payload(payload: bytes, *, is_json: bool) -> object:
    """What a payload holds: a JSON value, or its text.

    Raises:
        TooLarge: If it is longer than `MAX_SENSOR_PAYLOAD_BYTES`.
        BadPayload: If it is no JSON where JSON is expected, or no text.
    """
    if len(payload) > MAX_SENSOR_PAYLOAD_BYTES:
        raise TooLarge("payload", size=len(payload), limit=MAX_SENSOR_PAYLOAD_BYTES)
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        raise BadPayload("the payload is no text") from None
    if not is_json:
        return text
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        raise BadPayload(f"the payload {text[:40]!r} is no JSON") from None
    return value


def find_value(value: object, path: tuple[str, ...]) -> object:
    """What a JSON path leads to; an empty one leads to all of it.

    Raises:
        BadPayload: If there is nothing, or null.
    """
    for step in path:
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            value = None
        if value is None:
            raise BadPayload(f"the payload has no {'.'.join(path)!r}")
    return value


def read_number(value: object) -> float:
    """A reading as a number.

    Raises:
        BadPayload: If it is none.
        OutOfBounds: If it is not finite in float32.
    """
    if isinstance(value, str):
        text = value.strip()
        word = STATES.get(text.lower())
        if word is not None:
            return word
        try:
            number = parse_number(text)
        except ValueError:
            raise BadPayload(f"{text[:40]!r} is not a number") from None
    elif isinstance(value, bool | int | float):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    else:
        raise BadPayload(f"{str(value)[:40]!r} is not a number")
    if not math.isfinite(number) or abs(number) > MAX_FLOAT32:
        raise OutOfBounds(f"{number} is not finite in float32")
    return number


def parse_number(text: str) -> float:
    """The number that a text says; unlike Python's own, one with underscores is none.

    Raises:
        ValueError: If it says none.
    """
    if "_" in text:
        raise ValueError(text)
    return float(text)


def read_label(value: object) -> object:
    """A label as a text, a truth value or a number.

    Raises:
        BadPayload: If it is a list or an object.
    """
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value.strip()
    raise BadPayload(f"{str(value)[:40]!r} is no label")


def read_time_ms(value: object) -> int:
    """A timestamp in milliseconds: ISO 8601, or seconds or milliseconds since 1970.

    An ISO 8601 time without an offset is taken for UTC.

    Raises:
        BadPayload: If it is none of these.
    """
    if isinstance(value, str):
        try:
            found = datetime.fromisoformat(value.strip())
            moment = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
            return round(moment.timestamp() * 1_000)
        except (ValueError, OverflowError):
            try:
                value = float(value)
            except ValueError:
                raise BadPayload(f"{str(value)[:40]!r} is no time") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadPayload(f"{str(value)[:40]!r} is no time")
    time_ms = value * 1_000 if abs(value) < FIRST_MS else value
    if not 0 <= time_ms <= MAX_TIME_MS:
        raise BadPayload(f"{str(value)[:40]!r} is no time")
    return round(time_ms)
