"""The tables of `gateway.toml` about HTTP, other gateways, and the space for blobs."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from headwater_gateway.toml_table import TomlTable
from headwater_protocol.chain.committee import MAX_DELEGATES
from headwater_protocol.crypto.signing import PUBLIC_KEY_BYTES
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import ValidatorId
from headwater_protocol.messages.chunk import MAX_BLOB_BYTES

DEFAULT_HOST: Final = "127.0.0.1"
MAX_PEERS: Final = 8 * MAX_DELEGATES
WEB_KEYS: Final = ("host", "port", "tls_certificate", "tls_key", "tls_authority")
STORAGE_KEYS: Final = ("keep", "quota_bytes")

TEMPLATE: Final = """
# [web]                             # HTTP: blobs for other gateways, /status, /metrics
# host = "127.0.0.1"                # an address that the other gateways reach
# port = 8700
# tls_certificate = "web.crt"       # PEM files; leave them out behind a proxy that does TLS
# tls_key = "web.key"
# tls_authority = "peers.crt"       # who signed the certificates of the other gateways

# [peers]                           # the other gateways: a delegate's id, and where its gateway is
# "<64 hexadecimal digits>" = "https://gateway-2.example:8700"

# [storage]
# keep = "all"                      # or "needed": past the quota, what is settled is dropped; such
#                                   # a folder cannot be audited back to the beginning
# quota_bytes = 10737418240         # of blobs; leave it out for no limit
"""


class Keep(StrEnum):
    """What is done when the quota is reached."""

    ALL = "all"
    """Nothing is dropped, and nothing more is kept for others."""
    NEEDED = "needed"
    """What the ledgers do not need is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files of this gateway."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class WebConfig:
    """Where the HTTP service listens."""

    host: str = DEFAULT_HOST
    port: int
    """0 takes a free one."""
    tls: TlsFiles | None = None
    """None serves plain HTTP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """How much the blobs may take."""

    keep: Keep = Keep.ALL
    quota_bytes: int | None = None
    """None for no limit."""


def parse_web(table: TomlTable) -> tuple[WebConfig | None, Path | None]:
    """The table `[web]`, None where no port is named; and the authority of the peers.

    Raises:
        ConfigError: Names the key and the fix.
    """
    authority = table.path("tls_authority") if table.has("tls_authority") else None
    if not table.has("port"):
        table.require_empty(WEB_KEYS)
        return None, authority
    host, port = table.text("host", DEFAULT_HOST), table.integer("port")
    if not 0 <= port <= 65_535:
        raise ConfigError(table.key("port"), f"is {port}", fix="give 1 to 65535")
    named = [key for key in ("tls_certificate", "tls_key") if table.has(key)]
    if len(named) == 1:
        raise ConfigError(table.key(named[0]), "stands alone", fix="name certificate and key")
    tls = None
    if named:
        tls = TlsFiles(certificate=table.path("tls_certificate"), key=table.path("tls_key"))
    table.require_empty(WEB_KEYS)
    return WebConfig(host=host, port=port, tls=tls), authority


def parse_peers(table: TomlTable) -> dict[ValidatorId, str]:
    """The table `[peers]`: where the gateway of each delegate is.

    Raises:
        ConfigError: Names the key and the fix.
    """
    peers: dict[ValidatorId, str] = {}
    for key in table.names():
        try:
            validator = bytes.fromhex(key)
        except ValueError:
            validator = b""
        if len(validator) != PUBLIC_KEY_BYTES or len(key) != 2 * PUBLIC_KEY_BYTES:
            raise ConfigError(
                table.key(key[:80]), "is no delegate's id", fix="give its 64 hexadecimal digits"
            )
        peers[ValidatorId(validator)] = parse_peer_url(table.text(key), key=table.key(key))
    if len(peers) > MAX_PEERS:
        raise ConfigError(table.key(""), f"names {len(peers)} peers", fix=f"{MAX_PEERS} at most")
    return peers


def parse_peer_url(url: str, *, key: str) -> str:
    """A gateway's address, `http[s]://host[:port]`, without a slash at the end.

    Raises:
        ConfigError: If it is no such URL.
    """
    try:
        parts = urlsplit(url)
        is_port_fine = parts.port is None or parts.port > 0
    except ValueError:
        parts, is_port_fine = urlsplit(""), False
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or not is_port_fine
        or parts.username is not None
        or parts.path not in {"", "/"}
        or parts.query
        or parts.fragment
    ):
        raise ConfigError(key, f"{url[:200]!r} is no gateway", fix="use https://host:port")
    return f"{parts.scheme}://{parts.netloc}"


def parse_storage(table: TomlTable) -> StorageConfig:
    """The table `[storage]`.

    Raises:
        ConfigError: Names the key and the fix.
    """
    keep = table.text("keep", Keep.ALL)
    if keep not in set(Keep):
        raise ConfigError(table.key("keep"), f"is {keep!r}", fix='give "all" or "needed"')
    quota_bytes = table.integer("quota_bytes") if table.has("quota_bytes") else None
    if quota_bytes is not None and quota_bytes < MAX_BLOB_BYTES:
        raise ConfigError(
            table.key("quota_bytes"), f"is {quota_bytes}", fix=f"give {MAX_BLOB_BYTES} or more"
        )
    if keep == Keep.NEEDED and quota_bytes is None:
        raise ConfigError(
            table.key("keep"), "drops nothing without a quota", fix="give quota_bytes as well"
        )
    table.require_empty(STORAGE_KEYS)
    return StorageConfig(keep=Keep(keep), quota_bytes=quota_bytes)
