"""A Mosquitto configuration and its access list, out of the protocol's own table and limits.

Who connects is known by its certificate: the common name is both user name and client id, so a
device can neither use another one's topics nor push its session aside. A device's lines are
patterns with its own id, so the list is as long for a million devices as for one. Whatever no line
names is refused. A pattern holds for gateways too: they may read rounds and models, as any device.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from headwater_protocol.chain.genesis import Genesis, genesis_network
from headwater_protocol.identifiers import ChainId
from headwater_protocol.light.update import MAX_EPOCH_UPDATE_BYTES
from headwater_protocol.messages.announcement import MAX_ANNOUNCEMENT_BYTES
from headwater_protocol.messages.chunk import MAX_CHUNK_MESSAGE_BYTES
from headwater_protocol.messages.topics import ACCESS, Access, network_name
from headwater_shard.round_model import payload_limit

MAX_PACKET_OVERHEAD_BYTES: Final = 4 * 1024
"""Of topic, header and the message around a payload."""
MAX_INFLIGHT: Final = 100
"""Unacknowledged messages to one client: a gateway's burst, and more than a device ever takes."""
MAX_QUEUED: Final = 20_000
"""Behind these; a gateway that fell behind loses none of a cohort's updates."""
MAX_QUEUED_BYTES: Final = 256 * 1024 * 1024
MAX_KEEPALIVE_S: Final = 600
AUTOSAVE_S: Final = 300

CONFIG_NAME: Final = "mosquitto.conf"
ACCESS_NAME: Final = "access.acl"

_VERB: Final = {True: "write", False: "read"}


def format_access(
    genesis: Genesis, *, gateways: Sequence[str], access: Iterable[Access] = ACCESS
) -> str:
    """The access list of a network.

    Args:
        genesis: Names network and shards.
        gateways: The common names of its gateways.
        access: The protocol's table.
    """
    network = network_name(genesis_network(genesis))
    table = tuple(access)
    lines = [
        f"# Who may use which topics of network {network}: the protocol's table. What no line",
        "# names is refused.",
        "",
        "# Devices; %u is the id in the certificate.",
    ]
    for shard in genesis.shards:
        lines += [
            f"pattern {_line(entry, network, shard, device='%u')}"
            for entry in table
            if entry.role == "device"
        ]
    text = "\n".join(lines) + "\n"
    return text + "".join(
        format_gateway_access(genesis, gateway, access=table) for gateway in gateways
    )


def format_gateway_access(
    genesis: Genesis, gateway: str, *, access: Iterable[Access] = ACCESS
) -> str:
    """The part of an access list that is about one gateway; arguments as of `format_access`."""
    network = network_name(genesis_network(genesis))
    table = tuple(access)
    lines = ["", f"user {gateway}"]
    lines += [
        f"topic {_line(entry, network, shard, device='+')}"
        for shard in genesis.shards
        for entry in table
        if entry.role == "gateway"
    ]
    return "\n".join(lines) + "\n"


def format_config(
    genesis: Genesis,
    *,
    port: int,
    host: str | None,
    ca_file: Path,
    cert_file: Path,
    key_file: Path,
    crl_file: Path,
    access_file: Path,
    data_folder: Path,
    pid_file: Path,
) -> str:
    """A complete `mosquitto.conf`.

    Args:
        genesis: Gives the size of the largest message.
        port: Of the TLS listener.
        host: Where to listen; None is everywhere.
        ca_file: Whose certificates are taken.
        cert_file: The broker's own.
        key_file: Of `cert_file`.
        crl_file: Certificates that were taken back; it has to be there, if empty.
        access_file: What `format_access` gave.
        data_folder: For retained messages; the broker's user writes there.
        pid_file: Whom to send a SIGHUP.
    """
    listener = f"listener {port}" + ("" if host is None else f" {host}")
    return f"""\
# A broker for the network {genesis.name}. SIGHUP makes it read its lists anew.
{listener}
protocol mqtt

# TLS 1.2 or newer, and nobody without a certificate of the network's authority.
cafile {ca_file.absolute()}
certfile {cert_file.absolute()}
keyfile {key_file.absolute()}
crlfile {crl_file.absolute()}
tls_version tlsv1.2
require_certificate true

# Who somebody is, the certificate says; so nobody can push another one's session aside.
use_identity_as_username true
use_username_as_clientid true
allow_anonymous false
acl_file {access_file.absolute()}

# The largest message of the protocol, and room for a cohort's updates while a gateway is busy.
message_size_limit {compute_message_limit(genesis)}
max_inflight_messages {MAX_INFLIGHT}
max_queued_messages {MAX_QUEUED}
max_queued_bytes {MAX_QUEUED_BYTES}
max_keepalive {MAX_KEEPALIVE_S}

# Announcements and models are retained, and outlive a restart.
persistence true
persistence_location {data_folder.absolute()}/
autosave_interval {AUTOSAVE_S}

pid_file {pid_file.absolute()}
log_dest stderr
log_type error
log_type warning
log_type notice
"""


def compute_message_limit(genesis: Genesis) -> int:
    """Bytes of the largest payload that any topic of the network carries."""
    largest = max(
        MAX_ANNOUNCEMENT_BYTES,
        MAX_EPOCH_UPDATE_BYTES,
        MAX_CHUNK_MESSAGE_BYTES,
        payload_limit(genesis.task),
    )
    return largest + MAX_PACKET_OVERHEAD_BYTES


def _line(entry: Access, network: str, shard: ChainId, *, device: str) -> str:
    topic = entry.pattern.replace("%n", network).replace("%s", shard).replace("%d", device)
    return f"{_VERB[entry.may_publish]} {topic}"
