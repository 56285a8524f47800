"""`agent.toml`: every key, its default, and one line with the fix for what is wrong.

Paths are relative to the file's folder. Unknown keys are refused, because a misspelt limit that is
silently ignored is worse than none.
"""

import tomllib
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from headwater_agent.data.config import DataConfig, parse_data
from headwater_agent.guest.config import GuestConfig, parse_guest
from headwater_agent.machine.limits import DeviceLimits
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import Digest, EpochNumber, TimeMs
from headwater_protocol.light.client import Pin

MAX_CONFIG_BYTES: Final = 64 * 1024
MAX_BROKERS: Final = 16
DEFAULT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
NETWORK_HEX_DIGITS: Final = 64
DEFAULT_MAX_TRAINING_MS: Final = 30 * 60 * 1_000
ROOT_KEYS: Final = (
    *("brokers", "genesis", "network", "shard", "weight", "key", "state"),
    *("enrolment", "data", "guest", "login", "tls", "trust", "limits"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """Where a broker listens."""

    host: str
    port: int
    uses_tls: bool

    def __str__(self) -> str:
        return f"{'mqtts' if self.uses_tls else 'mqtt'}://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What a broker may ask for."""

    username: str
    password_file: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """For `mqtts://`; None means the system's authorities and no client certificate."""

    ca_file: Path | None
    cert_file: Path | None
    key_file: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """A checked `agent.toml`; that files exist is found out by whoever opens them."""

    brokers: tuple[BrokerAddress, ...]
    genesis: Path
    network: bytes
    """32 bytes."""
    shard: str
    weight: int
    key: Path
    state: Path
    data: DataConfig
    guest: GuestConfig
    login: Login | None
    tls: Tls
    limits: DeviceLimits
    enrolment: Path | None = None
    """What a registrar said; with it the device renews its certificate."""
    pin: Pin | None = None
    """An epoch that the operator vouches for."""
    max_training_ms: int = DEFAULT_MAX_TRAINING_MS
    """Of one training; a longer one hangs."""


class _Table:
    """A TOML table of which every key has to be taken."""

    def __init__(self, name: str, values: dict[str, object], folder: Path) -> None:
        self._name = name
        self._values = dict(values)
        self._folder = folder

    def key(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key

    def text(self, key: str) -> str:
        value = self._take(key)
        if value is None:
            raise ConfigError(self.key(key), "is missing", fix="add it; see headwater-agent init")
        if not isinstance(value, str) or not value:
            raise ConfigError(self.key(key), f"is {value!r}", fix="give a text in quotes")
        return value

    def path(self, key: str) -> Path:
        return self._folder / Path(self.text(key)).expanduser()

    def optional_path(self, key: str) -> Path | None:
        return self.path(key) if key in self._values else None

    def number(self, key: str, default: int, *, least: int = 1) -> int:
        value = self._take(key)
        if value is None:
            return default
        if type(value) is not int or value < least:
            fix = f"give a whole number from {least}"
            raise ConfigError(self.key(key), f"is {value!r}", fix=fix)
        return value

    def time(self, key: str) -> TimeMs:
        value = self._take(key)
        fix = 'give UTC, such as "2026-01-31T00:00:00Z"'
        if value is None:
            raise ConfigError(self.key(key), "is missing", fix=fix)
        try:
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        except ValueError:
            raise ConfigError(self.key(key), f"{str(value)[:80]!r} is no time", fix=fix) from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if moment < datetime(1970, 1, 1, tzinfo=UTC):
            raise ConfigError(self.key(key), f"{moment} is too early", fix=fix)
        return TimeMs(int(moment.timestamp()) * 1_000)

    def __len__(self) -> int:
        return len(self._values)

    def texts(self, key: str) -> list[str]:
        value = self._take(key)
        if not isinstance(value, list) or not value or len(value) > MAX_BROKERS:
            raise ConfigError(
                self.key(key),
                "is missing" if value is None else f"is {value!r}",
                fix=f'give a list of 1 to {MAX_BROKERS}, such as ["mqtt://127.0.0.1:1883"]',
            )
        if not all(isinstance(item, str) for item in value):
            raise ConfigError(self.key(key), f"is {value!r}", fix="give texts in quotes")
        return [str(item) for item in value]

    def table(self, key: str) -> "_Table | None":
        value = self._take(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise ConfigError(self.key(key), f"is {value!r}", fix=f"write it as [{self.key(key)}]")
        return _Table(key, value, self._folder)

    def require_empty(self, known: tuple[str, ...]) -> None:
        for key in sorted(self._values):
            raise ConfigError(
                self.key(key), "is no key of agent.toml", fix="use one of " + ", ".join(known)
            )

    def take_all(self) -> dict[str, object]:
        """The whole table, for who parses it himself."""
        values, self._values = self._values, {}
        return values

    def _take(self, key: str) -> object:
        return self._values.pop(key, None)


def load_config(path: Path) -> AgentConfig:
    """Read and check the file at `path`, and nothing else.

    Raises:
        ConfigError: Names the key and the fix.
    """
    return parse_config(read_values(path), folder=path.parent)


def read_values(path: Path) -> dict[str, object]:
    """The TOML document at `path`.

    Raises:
        ConfigError: If it cannot be read or is none.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            str(path), "does not exist", fix=f"write one with headwater-agent init --config {path}"
        ) from None
    except OSError as error:
        raise ConfigError(str(path), str(error), fix="check the path and permissions") from None
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(str(path), f"has {len(data)} bytes", fix=f"stay under {MAX_CONFIG_BYTES}")
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"is not TOML: {error}", fix="correct that place") from None


def parse_config(values: dict[str, object], *, folder: Path) -> AgentConfig:
    """The configuration in a parsed TOML document; paths are relative to `folder`.

    Raises:
        ConfigError: Names the key and the fix.
    """
    root = _Table("", values, folder)
    brokers = tuple(parse_broker(text) for text in root.texts("brokers"))
    genesis, key, state = root.path("genesis"), root.path("key"), root.path("state")
    network = _parse_network(root.text("network"))
    shard = root.text("shard")
    weight = root.number("weight", 1)
    enrolment = root.optional_path("enrolment")
    data = root.table("data") or _Table("data", {}, folder)
    guest = root.table("guest") or _Table("guest", {}, folder)
    login = _parse_login(root.table("login"))
    tls = _parse_tls(root.table("tls") or _Table("tls", {}, folder))
    limits = root.table("limits") or _Table("limits", {}, folder)
    max_data_bytes = limits.number("max_data_bytes", 64 * 1024 * 1024)
    max_training_ms = limits.number("max_training_ms", DEFAULT_MAX_TRAINING_MS)
    pin = _parse_trust(root.table("trust") or _Table("trust", {}, folder))
    device_limits = _parse_limits(limits)
    root.require_empty(ROOT_KEYS)
    return AgentConfig(
        brokers=brokers,
        genesis=genesis,
        network=network,
        shard=shard,
        weight=weight,
        key=key,
        state=state,
        data=parse_data(data.take_all(), folder=folder, max_bytes=max_data_bytes),
        guest=parse_guest(guest.take_all(), folder=folder),
        login=login,
        tls=tls,
        limits=device_limits,
        enrolment=enrolment,
        pin=pin,
        max_training_ms=max_training_ms,
    )


def parse_broker(text: str) -> BrokerAddress:
    """The address in a URL.

    Raises:
        ConfigError: If it is not of the form `mqtt://host:port` or `mqtts://host:port`.
    """
    fix = "write it as mqtt://host:port, or mqtts://host:port for TLS"
    if "@" in text:
        raise ConfigError("brokers", "a URL holds a login", fix=f"{fix}; the login goes to [login]")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConfigError("brokers", f"{text!r}: {error}", fix=fix) from None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or port == 0:
        raise ConfigError("brokers", f"{text!r} is no broker", fix=fix)
    if parts.path.strip("/") or parts.query:
        raise ConfigError("brokers", f"{text!r} holds more than an address", fix=fix)
    return BrokerAddress(
        host=parts.hostname,
        port=port or DEFAULT_PORTS[parts.scheme],
        uses_tls=parts.scheme == "mqtts",
    )


def _parse_network(text: str) -> bytes:
    return _parse_digest("network", text, what="the genesis digest")


def _parse_digest(key: str, text: str, *, what: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) * 2 != NETWORK_HEX_DIGITS:
        raise ConfigError(
            key,
            f"{text[:80]!r} is no digest",
            fix=f"give {what}, {NETWORK_HEX_DIGITS} hexadecimal digits",
        )
    return digest


def _parse_trust(table: _Table) -> Pin | None:
    names = ("pin_epoch", "pin_digest", "pin_time")
    if len(table) == 0:
        return None
    epoch = table.number("pin_epoch", -1, least=0)
    if epoch < 0:
        raise ConfigError("trust.pin_epoch", "is missing", fix="give " + ", ".join(names))
    digest = _parse_digest("trust.pin_digest", table.text("pin_digest"), what="the epoch's digest")
    pin = Pin(epoch=EpochNumber(epoch), digest=Digest(digest), time_ms=table.time("pin_time"))
    table.require_empty(names)
    return pin


def _parse_login(table: _Table | None) -> Login | None:
    if table is None:
        return None
    login = Login(
        username=table.text("username"), password_file=table.optional_path("password_file")
    )
    table.require_empty(("username", "password_file"))
    return login


def _parse_tls(table: _Table) -> Tls:
    tls = Tls(
        ca_file=table.optional_path("ca_file"),
        cert_file=table.optional_path("cert_file"),
        key_file=table.optional_path("key_file"),
    )
    table.require_empty(("ca_file", "cert_file", "key_file"))
    if (tls.cert_file is None) != (tls.key_file is None):
        raise ConfigError("tls", "has one of cert_file and key_file", fix="give both or none")
    return tls


def _parse_limits(table: _Table) -> DeviceLimits:
    defaults = DeviceLimits()
    names = tuple(field.name for field in fields(DeviceLimits))
    values = {name: table.number(name, getattr(defaults, name)) for name in names}
    table.require_empty(("max_data_bytes", "max_training_ms", *names))
    try:
        return DeviceLimits(**values)
    except ValueError as error:
        raise ConfigError("limits", str(error), fix="correct it") from None
