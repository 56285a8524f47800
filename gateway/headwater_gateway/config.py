"""`gateway.toml`: every key, its default, and one line with the fix for what is wrong.

Paths are relative to the file's folder. Unknown keys are refused, because a misspelt one that is
silently ignored is worse than none.
"""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from headwater_gateway.comet.config import TEMPLATE as ENGINE_TEMPLATE
from headwater_gateway.comet.config import CometConfig, parse_engine
from headwater_gateway.toml_table import MAX_LIST_ITEMS, TomlTable, quote, quote_list
from headwater_gateway.web.config import TEMPLATE as WEB_TEMPLATE
from headwater_gateway.web.config import (
    StorageConfig,
    WebConfig,
    parse_peers,
    parse_storage,
    parse_web,
)
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import ChainId, DeviceId, Network, ValidatorId

CONFIG_NAME: Final = "gateway.toml"
DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 1883
DEFAULT_MAX_DATA_BYTES: Final = 256 * 1024 * 1024
DIGEST_HEX_DIGITS: Final = 64
MAX_DEVICES_FILE_BYTES: Final = MAX_LIST_ITEMS * (DIGEST_HEX_DIGITS + 64)
ROOT_KEYS: Final = (
    *("genesis", "network", "folder", "blobs", "registrar_key"),
    *("engine", "cometbft", "brokers", "intake_group", "broker", "tls", "enrolment", "web"),
    *("peers", "storage", "limits", "shards"),
)
TLS_KEYS: Final = ("ca_file", "cert_file", "key_file")
ENROLMENT_KEYS: Final = (
    *("host", "port", "cert_file", "key_file", "ca_file", "ca_key_file"),
    *("crl_file", "reload", "brokers", "certificate_days"),
)
DEFAULT_ENROLMENT_PORT: Final = 8443
DEFAULT_CERTIFICATE_DAYS: Final = 90
MAX_CERTIFICATE_DAYS: Final = 825
MAX_BROKERS: Final = 16
GROUP_PATTERN: Final = "[a-z0-9-]{1,32}"
BROKER_KEYS: Final = ("url", "host", "port")
LIMIT_KEYS: Final = ("max_data_bytes",)
SHARD_KEYS: Final = ("name", "keys", "validation", "devices")

TEMPLATE: Final = string.Template(
    """\
# A Headwater gateway. Paths are relative to this file. Unknown keys are refused.

# The network: its genesis file, and its digest. The gateway starts only if the file has this
# digest. Devices need both: copy the file to them and pin the digest in their agent.toml.
genesis = $genesis
network = $network

# Ledgers and blobs. What was promised to devices is here: keep it on a disk that keeps its word.
# `headwater-shard audit` takes this folder.
folder = $folder

# Files to store as blobs at the start: the training program and the initial model.
blobs = $blobs

# Signs the enrolment of the devices listed below. Leave it out where another gateway enrols.
registrar_key = $registrar_key

"""
    + ENGINE_TEMPLATE
    + """\
$broker# [limits]                          # the default
# max_data_bytes = 268435456        # of each shard's validation data in memory
"""
    + WEB_TEMPLATE
)

BROKER_TEMPLATE: Final = string.Template("""\
[broker]
# A broker of your own, mqtt://[user:password@]host[:port], or mqtts:// for TLS:
# url = "mqtt://broker.example:1883"
# Several at once: put brokers = ["mqtts://…", "mqtts://…"] above this table instead.
# Without a URL the gateway runs a broker itself, for one machine and the first run. It asks nobody
# for a password, so it listens on this machine alone unless you give another address.
host = "127.0.0.1"
port = $port

""")

TLS_TEMPLATE: Final = string.Template("""\
# The brokers, all of which are served at once. Devices are told of them in this order.
brokers = $brokers

# Gateways that name the same group share the updates at each broker out among themselves.
# intake_group = "intake"

[tls]                               # for mqtts://
ca_file = "tls/ca.pem"
cert_file = "tls/gateway.pem"       # what brokers know this gateway by
key_file = "tls/gateway.key"

[enrolment]                         # headwater-gateway token create, headwater-agent enroll
host = $host
port = $port
cert_file = "tls/gateway.pem"       # what devices know it by
key_file = "tls/gateway.key"
# The network's own authority. Whoever has its key can pass for any device at the brokers, and for
# none on the ledgers.
ca_file = "tls/ca.pem"
ca_key_file = "tls/ca.key"
# Certificates that were taken back. Brokers read the file when they are told to: here by a command
# that is run after it has changed.
crl_file = "tls/revoked.crl"
$reload
# certificate_days = 90             # of a device; it renews when a third is left

""")

SHARD_TEMPLATE: Final = string.Template("""
[[shards]]
name = $name
# The delegates of this shard that are hosted here. Whoever has a key votes with it.
keys = $keys
""")
VALIDATION_TEMPLATE: Final = string.Template("""\
# What delegates train their reference on: labelled examples that are yours, never the devices'. A
# folder of *.csv (numbers, the class label last) or an .npz file with "features" and "labels". One
# path is dealt out among the delegates; a list gives each of them its own.
validation = $validation
""")
DEVICES_TEMPLATE: Final = string.Template("""\
# Devices to enrol: a file with one id a line, read at each start, or a list of ids.
devices = $devices
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """Where the broker is."""

    url: str | None
    """Of a broker that runs elsewhere; None embeds one."""
    host: str
    """Where the embedded one listens."""
    port: int
    """1 to 65535."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """For `mqtts://`; None means the system's authorities and no client certificate."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentConfig:
    """The registrar's HTTPS server, and the authority behind it."""

    host: str
    port: int
    """1 to 65535."""
    cert_file: Path
    key_file: Path
    ca_file: Path
    ca_key_file: Path
    crl_file: Path
    reload: tuple[str, ...]
    """Run after the revocation list changed; empty for none."""
    brokers: tuple[str, ...]
    """Told to devices."""
    certificate_days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardConfig:
    """A shard that is served here."""

    key: str
    """The table's name, for errors."""
    shard: ChainId
    delegate_keys: tuple[Path, ...]
    """None of a shard that is followed, since an election may send a delegate there."""
    validation: tuple[Path, ...]
    """One for all delegates together, or one for each; none without delegates."""
    devices: tuple[DeviceId, ...]
    """To enrol, sorted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """A checked `gateway.toml`; that other files exist is found out by whoever opens them."""

    genesis: Path
    network: Network
    """What the genesis has to be."""
    folder: Path
    """Ledgers and blobs."""
    blobs: tuple[Path, ...]
    """Stored at the start."""
    registrar_key: Path | None
    broker: BrokerConfig
    shards: tuple[ShardConfig, ...]
    """At least one, names distinct."""
    max_data_bytes: int
    """Of one shard's validation data in memory."""
    web: WebConfig | None = None
    """Where HTTP is served; None serves nobody."""
    peers: Mapping[ValidatorId, str] = field(default_factory=dict)
    """Where the gateways of other delegates are."""
    tls_authority: Path | None = None
    """Who signed their certificates; None trusts the system's authorities."""
    storage: StorageConfig = field(default_factory=StorageConfig)
    brokers: tuple[str, ...] = ()
    """All served at once, in place of `broker`."""
    intake_group: str | None = None
    """Gateways of one group share out the updates that come to their brokers."""
    tls: TlsConfig = field(default_factory=TlsConfig)
    enrolment: EnrolmentConfig | None = None
    comet: CometConfig | None = None
    """Where the chains run on CometBFT; None for the embedded engine."""


def load_config(path: Path) -> GatewayConfig:
    """Read and check the file at `path`, and the device lists that it names.

    Args:
        path: The file, or the folder that it is in.

    Raises:
        ConfigError: Names the key and the fix.
    """
    if path.is_dir():
        path /= CONFIG_NAME
    return parse_config(
        TomlTable.read(path, fix="write one with headwater-gateway init, or name it with --config")
    )


def parse_config(root: TomlTable) -> GatewayConfig:
    """The configuration in a TOML document.

    Raises:
        ConfigError: Names the key and the fix.
    """
    genesis = root.path("genesis")
    network = _parse_network(root.text("network"))
    folder = root.path("folder")
    blobs = root.paths("blobs") if root.has("blobs") else ()
    registrar_key = root.path("registrar_key") if root.has("registrar_key") else None
    has_table = root.has("broker")
    broker = _parse_broker(root.table("broker"))
    web, tls_authority = parse_web(root.table("web"))
    peers, storage = parse_peers(root.table("peers")), parse_storage(root.table("storage"))
    brokers = _parse_brokers(root, has_table=has_table)
    intake_group = root.text("intake_group") if root.has("intake_group") else None
    if intake_group is not None and re.fullmatch(GROUP_PATTERN, intake_group) is None:
        raise ConfigError("intake_group", f"is {intake_group!r}", fix="use a-z, 0-9 and -")
    if intake_group is not None and not brokers and broker.url is None:
        raise ConfigError(
            "intake_group",
            "is set, but the embedded broker shares nothing out",
            fix="name a broker of your own, or drop it",
        )
    tls = _parse_tls(root.table("tls"))
    enrolment = None
    if root.has("enrolment"):
        urls = brokers or (() if broker.url is None else (broker.url,))
        enrolment = _parse_enrolment(root.table("enrolment"), urls)
        if registrar_key is None:
            raise ConfigError(
                "registrar_key", "is missing, but [enrolment] is there", fix="name the key"
            )
    comet = parse_engine(root)
    limits = root.table("limits")
    max_data_bytes = limits.integer("max_data_bytes", DEFAULT_MAX_DATA_BYTES)
    if max_data_bytes < 1:
        raise ConfigError("limits.max_data_bytes", f"is {max_data_bytes}", fix="give 1 or more")
    limits.require_empty(LIMIT_KEYS)
    shards = tuple(_parse_shard(table) for table in root.tables("shards"))
    root.require_empty(ROOT_KEYS)
    names = [shard.shard for shard in shards]
    if not shards[0].delegate_keys:
        raise ConfigError(
            f"{shards[0].key}.keys",
            "is empty",
            fix="name the key of a delegate; shards that are only followed come after",
        )
    for shard in shards:
        if names.count(shard.shard) > 1:
            raise ConfigError(f"{shard.key}.name", f"{shard.shard} comes twice", fix="drop one")
        if shard.devices and registrar_key is None:
            raise ConfigError(
                "registrar_key",
                f"is missing, but {shard.key}.devices lists devices to enrol",
                fix="name the registrar's key, or leave the list out",
            )
    return GatewayConfig(
        genesis=genesis,
        network=network,
        folder=folder,
        blobs=blobs,
        registrar_key=registrar_key,
        broker=broker,
        shards=shards,
        max_data_bytes=max_data_bytes,
        web=web,
        peers=peers,
        tls_authority=tls_authority,
        storage=storage,
        brokers=brokers,
        intake_group=intake_group,
        tls=tls,
        enrolment=enrolment,
        comet=comet,
    )


def parse_device(text: str, *, key: str) -> DeviceId:
    """The id that 64 hexadecimal digits give.

    Raises:
        ConfigError: If they give none.
    """
    try:
        device = bytes.fromhex(text)
    except ValueError:
        device = b""
    if len(text) != DIGEST_HEX_DIGITS or len(device) * 2 != DIGEST_HEX_DIGITS:
        raise ConfigError(
            key,
            f"{text[:80]!r} is no device id",
            fix=f"give the {DIGEST_HEX_DIGITS} hexadecimal digits that headwater-agent id prints",
        )
    return DeviceId(device)


def format_template(
    *,
    genesis: str,
    network: Network,
    folder: str,
    blobs: Sequence[str],
    registrar_key: str,
    port: int,
    tls: str | None = None,
) -> str:
    """A commented `gateway.toml` without its shards; `tls` stands in place of `[broker]`."""
    return TEMPLATE.substitute(
        genesis=quote(genesis),
        network=quote(network.hex()),
        folder=quote(folder),
        blobs=quote_list(blobs),
        registrar_key=quote(registrar_key),
        broker=BROKER_TEMPLATE.substitute(port=port) if tls is None else tls,
    )


def format_tls(*, brokers: Sequence[str], host: str, port: int, reload: Sequence[str]) -> str:
    """What `[broker]` is replaced by for brokers with TLS and a registrar."""
    line = f"reload = {quote_list(reload)}"
    return TLS_TEMPLATE.substitute(
        brokers=quote_list(brokers), host=quote(host), port=port, reload=line
    )


def format_shard(
    *, name: ChainId, keys: Sequence[str], validation: str | None, devices: str | None
) -> str:
    """A commented `[[shards]]` table; None leaves a key out."""
    text = SHARD_TEMPLATE.substitute(name=quote(name), keys=quote_list(keys))
    if validation is not None:
        text += VALIDATION_TEMPLATE.substitute(validation=quote(validation))
    if devices is not None:
        text += DEVICES_TEMPLATE.substitute(devices=quote(devices))
    return text


def _parse_network(text: str) -> Network:
    try:
        network = bytes.fromhex(text)
    except ValueError:
        network = b""
    if len(network) * 2 != DIGEST_HEX_DIGITS:
        raise ConfigError(
            "network",
            f"{text[:80]!r} is no digest",
            fix=f"give the genesis digest, {DIGEST_HEX_DIGITS} hexadecimal digits",
        )
    return Network(network)


def _parse_broker(table: TomlTable) -> BrokerConfig:
    url = table.text("url") if table.has("url") else None
    port = table.integer("port", DEFAULT_PORT)
    if not 1 <= port <= 65_535:
        raise ConfigError("broker.port", f"is {port}", fix="give 1 to 65535")
    broker = BrokerConfig(url=url, host=table.text("host", DEFAULT_HOST), port=port)
    table.require_empty(BROKER_KEYS)
    return broker


def _parse_brokers(root: TomlTable, *, has_table: bool) -> tuple[str, ...]:
    if not root.has("brokers"):
        return ()
    brokers = root.texts("brokers")
    if not 1 <= len(brokers) <= MAX_BROKERS or len(set(brokers)) < len(brokers):
        raise ConfigError("brokers", "is no list", fix=f"give 1 to {MAX_BROKERS} different URLs")
    if has_table:
        raise ConfigError("broker", "is there beside brokers", fix="keep one of them")
    return brokers


def _parse_tls(table: TomlTable) -> TlsConfig:
    paths = {key: table.path(key) if table.has(key) else None for key in TLS_KEYS}
    table.require_empty(TLS_KEYS)
    if (paths["cert_file"] is None) != (paths["key_file"] is None):
        raise ConfigError("tls", "has one of cert_file and key_file", fix="give both or none")
    return TlsConfig(**paths)


def _parse_enrolment(table: TomlTable, brokers: tuple[str, ...]) -> EnrolmentConfig:
    port = table.integer("port", DEFAULT_ENROLMENT_PORT)
    days = table.integer("certificate_days", DEFAULT_CERTIFICATE_DAYS)
    if not 1 <= port <= 65_535:
        raise ConfigError("enrolment.port", f"is {port}", fix="give 1 to 65535")
    if not 1 <= days <= MAX_CERTIFICATE_DAYS:
        raise ConfigError(
            "enrolment.certificate_days", f"is {days}", fix=f"give 1 to {MAX_CERTIFICATE_DAYS}"
        )
    told = table.texts("brokers") if table.has("brokers") else brokers
    if not told:
        raise ConfigError(
            "brokers",
            "is missing, and devices that enrol have to be told of a broker",
            fix='add brokers = ["mqtts://host:8883"], or enrolment.brokers',
        )
    if len(told) > MAX_BROKERS or any("@" in url for url in told):
        raise ConfigError(
            "enrolment.brokers",
            "is too long or holds a login",
            fix=f"list up to {MAX_BROKERS} URLs without user and password, for devices",
        )
    config = EnrolmentConfig(
        host=table.text("host", DEFAULT_HOST),
        port=port,
        cert_file=table.path("cert_file"),
        key_file=table.path("key_file"),
        ca_file=table.path("ca_file"),
        ca_key_file=table.path("ca_key_file"),
        crl_file=table.path("crl_file"),
        reload=table.texts("reload") if table.has("reload") else (),
        brokers=told,
        certificate_days=days,
    )
    table.require_empty(ENROLMENT_KEYS)
    return config


def _parse_shard(table: TomlTable) -> ShardConfig:
    keys = table.paths("keys")
    if table.is_list("validation"):
        validation = table.paths("validation")
        if len(validation) != len(keys):
            raise ConfigError(
                table.key("validation"),
                f"has {len(validation)} paths for {len(keys)} delegates",
                fix="give one path for all of them, or a list with one for each",
            )
    elif keys or table.has("validation"):
        validation = (table.path("validation"),)
    else:
        validation = ()
    shard = ShardConfig(
        key=table.key("").removesuffix("."),
        shard=ChainId(table.text("name")),
        delegate_keys=keys,
        validation=validation,
        devices=_parse_devices(table),
    )
    table.require_empty(SHARD_KEYS)
    return shard


def _parse_devices(table: TomlTable) -> tuple[DeviceId, ...]:
    key = table.key("devices")
    if not table.has("devices"):
        return ()
    if table.is_list("devices"):
        return tuple(sorted({parse_device(text, key=key) for text in table.texts("devices")}))
    path = table.path("devices")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_DEVICES_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            key, f"{path}: {error.strerror}", fix="make the file; it may be empty"
        ) from None
    if len(data) > MAX_DEVICES_FILE_BYTES:
        raise ConfigError(key, f"{path} is too long", fix=f"list {MAX_LIST_ITEMS} devices at most")
    devices: set[DeviceId] = set()
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
        text = line.partition("#")[0].strip()
        if text:
            devices.add(parse_device(text, key=f"{key} ({path} line {number})"))
    return tuple(sorted(devices))
