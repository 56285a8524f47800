"""`agent.toml`: every key, its default, and one line with the fix for what is wrong.

Paths are relative to the file's folder. Unknown keys are refused, because a misspelt limit that is
silently ignored is worse than none.
"""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from headwater_agent.data.config import DataConfig, parse_data
from headwater_agent.guest.config import GuestConfig, parse_guest
from headwater_agent.machine.limits import DeviceLimits
from headwater_protocol.errors import ConfigError

MAX_CONFIG_BYTES: Final = 64 * 1024
MAX_BROKERS: Final = 16
DEFAULT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
NETWORK_HEX_DIGITS: Final = 64
ROOT_KEYS: Final = (
    *("brokers", "genesis", "network", "shard", "weight", "key", "state"),
    *("enrolment", "data", "guest", "login", "tls", "limits"),
)

TEMPLATE: Final = """\
# A Headwater device. Paths are relative to this file. Unknown keys are refused.

# MQTT brokers, mqtt://host:port or mqtts://host:port (TLS). With several, the device goes to the
# next one when a connection fails.
brokers = [{brokers}]

# The network: its genesis file, and the digest that you were told by somebody you trust. The
# device starts only if the file has this digest; everything it believes follows from it.
genesis = {genesis}
network = {network}

# The shard that the device is enrolled in, and its weight there: how often it is drawn for a
# round, compared with others. It has to be the weight on the ledger.
shard = {shard}
weight = 1

# The secret key. Whoever has it can sign as this device. Keep a copy nowhere else: two processes
# with one key can sign two updates for a round.
key = {key}

# What has to survive a power cut: the signed update, the error-feedback memory, counters.
state = {state}

[data]
# The device's own examples: a folder of *.csv with the class label last, or an .npz file with the
# arrays "features" and "labels". They never leave this device. Named columns, a SQLite query, a
# sensor's MQTT topic and a Python function do as well: see docs/data-sources.md.
path = {data}
# max_examples = 100000             # kept in memory, a fair sample of all that came

# [guest]                            # when it may train; the defaults
# hours = []                         # ["22:00-06:00"] at night only; local time
# power = "any"                      # "mains": not on battery
# min_battery_percent = 0            # while on battery
# max_temperature_c = 80             # of the processor
# max_load = 0                       # one-minute load average for each core; 0 does not look
# stops_when_throttled = true        # a Raspberry Pi that is too hot or has too little voltage
# max_memory_bytes = 0               # of this process, what training needs included; 0 is no limit
# cores = 1                          # that training may use
# pinned_cores = []                  # [3] keeps the whole process on core 3
# niceness = 10                      # 0 to 19; the higher, the more it gives way
# look_again_s = 60                  # after a refusal; doubles up to 15 minutes while throttled

# [login]
# username = "device-1"
# password_file = "password.txt"     # its first line

# [tls]                              # for mqtts://
# ca_file = "ca.pem"                 # default: the system's authorities
# cert_file = "device.pem"           # a client certificate, if the broker asks for one
# key_file = "device-tls.key"

# [limits]                           # the defaults
# max_parameters = 1048576           # of a model that this device trains
# max_program_bytes = 4194304        # of a training program
# max_outbox_bytes = 1048576         # of a signed update
# max_data_bytes = 67108864          # of the examples in memory
# first_resend_ms = 5000             # wait before an update is sent again; doubles
# max_resend_ms = 120000
# first_refetch_ms = 5000            # wait before a blob is asked for again; doubles
# max_refetch_ms = 60000
# resume_jitter_ms = 2000            # random wait after a reconnect
"""


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

    def number(self, key: str, default: int) -> int:
        value = self._take(key)
        if value is None:
            return default
        if type(value) is not int or value < 1:
            raise ConfigError(self.key(key), f"is {value!r}", fix="give a whole number from 1")
        return value

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
    """Read and check the file at `path`.

    Raises:
        ConfigError: Names the key and the fix.
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
        values = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"is not TOML: {error}", fix="correct that place") from None
    return parse_config(values, folder=path.parent)


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


def format_template(
    *, brokers: list[str], genesis: str, network: str, shard: str, key: str, state: str, data: str
) -> str:
    """A commented `agent.toml` with these values."""
    return TEMPLATE.format(
        brokers=", ".join(_quote(broker) for broker in brokers),
        genesis=_quote(genesis),
        network=_quote(network),
        shard=_quote(shard),
        key=_quote(key),
        state=_quote(state),
        data=_quote(data),
    )


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if not escaped.isprintable():
        raise ConfigError("init", f"{text!r} holds a control character", fix="leave it out")
    return f'"{escaped}"'


def _parse_network(text: str) -> bytes:
    try:
        network = bytes.fromhex(text)
    except ValueError:
        network = b""
    if len(network) * 2 != NETWORK_HEX_DIGITS:
        raise ConfigError(
            "network",
            f"{text[:80]!r} is no digest",
            fix=f"give the genesis digest, {NETWORK_HEX_DIGITS} hexadecimal digits",
        )
    return network


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
    table.require_empty(("max_data_bytes", *names))
    try:
        return DeviceLimits(**values)
    except ValueError as error:
        raise ConfigError("limits", str(error), fix="correct it") from None
