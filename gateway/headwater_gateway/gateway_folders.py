"""Founding a network on several machines: a folder for each gateway, and one for each broker.

A folder holds all that its machine needs: key, genesis, program, certificates, configuration. Each
gateway hosts one delegate and runs one node of CometBFT a chain, of every shard, since an election
may send its delegate to any of them. The first gateway is the registrar: it has the authority that
certifies devices and brokers.
"""

import ipaddress
import os
import re
import shlex
import string
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from headwater_gateway.comet.config import (
    DEFAULT_SNAPSHOT_INTERVAL_BLOCKS,
    CometNodeConfig,
    format_engine,
)
from headwater_gateway.config import CONFIG_NAME, format_shard
from headwater_gateway.founding import (
    DATA_NAME,
    DEVICES_HEADING,
    DEVICES_NAME,
    GENESIS_NAME,
    KEYS_NAME,
    MODEL_NAME,
    PROGRAM_NAME,
    DrawSeed,
    Foundation,
    FoundingPlan,
    lay_foundation,
    write_common,
)
from headwater_gateway.keyfile import create_key
from headwater_gateway.launch import deal
from headwater_gateway.registrar.authority import CRL_BACKDATE_MS, SERIAL_BYTES, Authority
from headwater_gateway.registrar.files import PUBLIC_MODE, SECRET_MODE, write_whole
from headwater_gateway.registrar.setup import (
    DEFAULT_BROKER_PORT,
    DEFAULT_REGISTRAR_PORT,
    PID_NAME,
    TLS_NAME,
    BrokerFolder,
    bracketed,
    issue_files,
    write_broker_folder,
)
from headwater_gateway.toml_table import quote, quote_list
from headwater_models.dataset import Dataset
from headwater_protocol.chain.genesis import genesis_network
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId
from headwater_shard.engine.cometbft.shell.home import ensure_node_key

NUM_BROKERS: Final = 2
"""So that devices and gateways have one left when the other is away."""
DEFAULT_FIRST_PORT: Final = 26_600
INTAKE_GROUP: Final = "intake"
DELEGATE_NAME: Final = "delegate.key"
NODE_NAME: Final = "node.json"
VALIDATION_NAME: Final = "validation"
EXAMPLES_NAME: Final = "examples.npz"
MAX_PORT: Final = 65_535
ANY_HOST: Final = "0.0.0.0"  # noqa: S104  # all of it is there for other machines
ANY_HOST_V6: Final = "::"
HOST_PATTERN: Final = "[A-Za-z0-9_][A-Za-z0-9._-]{0,252}"

TEMPLATE: Final = string.Template("""\
# $name of $count, a Headwater gateway. Paths are relative to this file. Unknown keys are refused.

# The network: its genesis file, and the digest that the file has to have.
genesis = $genesis
network = $network

# Ledgers and blobs. What was promised to devices is here: keep it on a disk that keeps its word.
folder = $folder

# Files to store as blobs at the start: the training program and the initial model.
blobs = $blobs
$registrar
# Who orders transactions; see [cometbft] below.
engine = "cometbft"

# The brokers, all of which are served at once. Devices are told of them in this order.
brokers = $brokers

# Gateways that name the same group share the updates at each broker out among themselves.
intake_group = $group

[tls]                               # for mqtts://
ca_file = "tls/ca.pem"
cert_file = $certificate        # what brokers know this gateway by
key_file = $key

[web]                               # HTTPS: blobs for other gateways, /status, /metrics
host = $host
port = $port
tls_certificate = $certificate
tls_key = $key
tls_authority = "tls/ca.pem"        # who signed the certificates of the other gateways

[peers]                             # the other gateways, by the delegates that they host
$peers

$enrolment$engine""")

ENROLMENT_TEMPLATE: Final = string.Template("""\
[enrolment]                         # headwater-gateway token create, headwater-agent enroll
host = $any
port = $port
cert_file = $certificate
key_file = $key
# The network's own authority. Whoever has its key can pass for any device at the brokers, and for
# none on the ledgers.
ca_file = "tls/ca.pem"
ca_key_file = "tls/ca.key"
# Certificates that were taken back, and what is run after the list has changed. A broker on another
# machine needs the file copied to it, then a SIGHUP.
crl_file = "tls/revoked.crl"
$reload

""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where everything listens; the brokers' and the gateways' count up from the first."""

    registrar: int = DEFAULT_REGISTRAR_PORT
    broker: int = DEFAULT_BROKER_PORT
    gateway: int = DEFAULT_FIRST_PORT

    @classmethod
    def counted_from(cls, first: int) -> "Ports":
        """The registrar's, then the brokers', then the gateways'."""
        return cls(registrar=first, broker=first + 1, gateway=first + 1 + NUM_BROKERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachinesPlan:
    """What is asked for beside the network itself."""

    network: FoundingPlan
    hosts: Sequence[str]
    """Names or addresses of the gateways: one for all, or one for each."""
    broker_hosts: Sequence[str] = ()
    """Of the brokers; empty puts them beside the first gateways."""
    examples: Dataset | None = None
    """Labelled ones, dealt out among the delegates; None leaves their folders empty."""
    ports: Ports = Ports()
    snapshot_interval_blocks: int = DEFAULT_SNAPSHOT_INTERVAL_BLOCKS


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayPlace:
    """One gateway to be."""

    index: int
    shard: ChainId
    """Of its delegate, to begin with."""
    key: SecretKey
    host: str
    web_port: int
    node_ports: dict[ChainId, int]
    """For the peers of its nodes, by chain."""

    @property
    def name(self) -> str:
        """Of its folder and of its certificate."""
        return f"gateway-{self.index}"

    @property
    def listen_host(self) -> str:
        """Where it listens itself."""
        return pick_listen_host(self.host)

    @property
    def url(self) -> str:
        """Where the other gateways find it."""
        return f"https://{bracketed(self.host)}:{self.web_port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """What was written."""

    foundation: Foundation
    configs: tuple[Path, ...]
    """Of the gateways; the first is the registrar's."""
    broker_configs: tuple[Path, ...]
    registrar_url: str


def require_host(host: str, *, key: str) -> None:
    """Refuse what is neither a host's name nor an address.

    Raises:
        ConfigError: Names the option.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if re.fullmatch(HOST_PATTERN, host) is None:
            raise ConfigError(
                key, f"{host[:80]!r} is no host", fix="give a name or an address, without a port"
            ) from None


def pick_listen_host(host: str) -> str:
    """Where to listen on a machine that others know as `host`.

    Everywhere, since the name that others use need be none of the machine's own: a host's file has
    it on the loopback, an address translation or a container has it elsewhere. A loopback address
    stays what it is.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host if host == "localhost" else ANY_HOST
    if address.is_loopback:
        return host
    return ANY_HOST if address.version == 4 else ANY_HOST_V6


def found_machines(plan: MachinesPlan, draw_seed: DrawSeed) -> Machines:
    """Write the folders of a new network on several machines.

    Raises:
        ConfigError: If the plan contradicts itself, or the folder is in use or cannot be written.
    """
    made = lay_foundation(plan.network, draw_seed)
    places = _place_gateways(plan, made)
    brokers = _place_brokers(plan, places)
    folder = plan.network.folder
    parts = None if plan.examples is None else deal(plan.examples, len(places), key="--validation")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / KEYS_NAME).mkdir(mode=0o700)
        create_key(folder / KEYS_NAME / "sponsor.key", made.sponsor.seed)
        for place in places:
            (folder / place.name).mkdir()
            write_common(folder / place.name, made, plan.network.program)
            create_key(folder / place.name / KEYS_NAME / DELEGATE_NAME, place.key.seed)
            _write_examples(
                folder / place.name / VALIDATION_NAME,
                None if parts is None else parts[place.index],
            )
        registrar = folder / places[0].name
        create_key(registrar / KEYS_NAME / "registrar.key", made.registrar.seed)
        for shard in made.genesis.shards:
            heading = DEVICES_HEADING.format(shard=shard)
            (registrar / DEVICES_NAME.format(shard=shard)).write_text(heading, encoding="utf-8")
        node_ids = [
            ensure_node_key(folder / place.name / KEYS_NAME / NODE_NAME) for place in places
        ]
        _write_certificates(plan, made, places, brokers)
        for place in places:
            text = _format_config(plan, made, places, node_ids, brokers, place)
            (folder / place.name / CONFIG_NAME).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError("--out", f"{folder}: {error}", fix="choose a folder of yours") from error
    return Machines(
        foundation=made,
        configs=tuple(folder / place.name / CONFIG_NAME for place in places),
        broker_configs=tuple(
            folder / f"broker-{index}" / "mosquitto.conf" for index in range(len(brokers))
        ),
        registrar_url=f"https://{bracketed(places[0].host)}:{plan.ports.registrar}",
    )


def _place_gateways(plan: MachinesPlan, made: Foundation) -> list[GatewayPlace]:
    shards = made.genesis.shards
    delegates = [(shard, key) for shard in shards for key in made.delegates[shard]]
    hosts = list(plan.hosts)
    if len(hosts) == 1:
        hosts *= len(delegates)
    if len(hosts) != len(delegates):
        raise ConfigError(
            "--host",
            f"{len(hosts)} of them for {len(delegates)} gateways",
            fix="give one for all, or one for each",
        )
    for host in hosts:
        require_host(host, key="--host")
    chains = (MAIN_CHAIN, *shards)
    stride = 1 + len(chains)
    if plan.ports.gateway + stride * len(delegates) > MAX_PORT:
        raise ConfigError(
            "--first-port", "leaves too few ports", fix="give a smaller one, or fewer gateways"
        )
    return [
        GatewayPlace(
            index=index,
            shard=shard,
            key=key,
            host=hosts[index],
            web_port=plan.ports.gateway + index * stride,
            node_ports={
                chain: plan.ports.gateway + index * stride + 1 + number
                for number, chain in enumerate(chains)
            },
        )
        for index, (shard, key) in enumerate(delegates)
    ]


def _place_brokers(plan: MachinesPlan, places: Sequence[GatewayPlace]) -> list[tuple[str, int]]:
    """Host and port of each broker."""
    hosts = list(plan.broker_hosts) or [
        places[index % len(places)].host for index in range(NUM_BROKERS)
    ]
    for host in hosts:
        require_host(host, key="--broker-host")
    return [(host, plan.ports.broker + index) for index, host in enumerate(hosts)]


def _write_examples(folder: Path, examples: Dataset | None) -> None:
    folder.mkdir()
    if examples is not None:
        np.savez(folder / EXAMPLES_NAME, features=examples.features, labels=examples.labels)


def _write_certificates(
    plan: MachinesPlan,
    made: Foundation,
    places: Sequence[GatewayPlace],
    brokers: Sequence[tuple[str, int]],
) -> None:
    folder = plan.network.folder
    now_ms = time.time_ns() // 1_000_000
    authority = Authority.create(made.genesis.name, now_ms=now_ms, serial=os.urandom(SERIAL_BYTES))
    for place in places:
        tls = folder / place.name / TLS_NAME
        issue_files(authority, tls, name=place.name, hosts=(place.host, "localhost", "127.0.0.1"))
        write_whole(tls / "ca.pem", authority.certificate_pem.encode(), mode=PUBLIC_MODE)
    tls = folder / places[0].name / TLS_NAME
    write_whole(tls / "ca.key", authority.key_pem.encode(), mode=SECRET_MODE)
    empty = authority.make_revocation_list((), time_ms=now_ms - CRL_BACKDATE_MS, number=0)
    write_whole(tls / "revoked.crl", empty.encode(), mode=PUBLIC_MODE)
    for index, (host, port) in enumerate(brokers):
        write_broker_folder(
            made.genesis,
            authority,
            BrokerFolder(
                folder=folder / f"broker-{index}",
                hosts=(host, "localhost", "127.0.0.1"),
                port=port,
                gateways=[place.name for place in places],
                crl_file=tls / "revoked.crl" if _is_one_machine(places, brokers) else None,
            ),
        )


def _format_config(
    plan: MachinesPlan,
    made: Foundation,
    places: Sequence[GatewayPlace],
    node_ids: Sequence[str],
    brokers: Sequence[tuple[str, int]],
    place: GatewayPlace,
) -> str:
    is_registrar = place.index == 0
    files = {
        "certificate": quote(f"{TLS_NAME}/{place.name}.pem"),
        "key": quote(f"{TLS_NAME}/{place.name}.key"),
    }
    others = [other for other in places if other is not place]
    nodes = [
        CometNodeConfig(
            chain=chain,
            listen=f"tcp://{bracketed(place.listen_host)}:{port}",
            peers=tuple(
                f"{node_ids[other.index]}@{bracketed(other.host)}:{other.node_ports[chain]}"
                for other in others
            ),
        )
        for chain, port in place.node_ports.items()
    ]
    text = TEMPLATE.substitute(
        files,
        name=place.name,
        count=len(places),
        genesis=quote(GENESIS_NAME),
        network=quote(genesis_network(made.genesis).hex()),
        folder=quote(DATA_NAME),
        blobs=quote_list((PROGRAM_NAME, MODEL_NAME)),
        registrar="\n# Signs the enrolment of devices; no other gateway has this key.\n"
        f"registrar_key = {quote(f'{KEYS_NAME}/registrar.key')}\n"
        if is_registrar
        else "",
        brokers=quote_list([f"mqtts://{bracketed(host)}:{port}" for host, port in brokers]),
        group=quote(INTAKE_GROUP),
        host=quote(place.listen_host),
        port=place.web_port,
        peers="\n".join(
            f"{quote(other.key.validator.hex())} = {quote(other.url)}" for other in others
        ),
        enrolment=ENROLMENT_TEMPLATE.substitute(
            files,
            any=quote(ANY_HOST),
            port=plan.ports.registrar,
            reload=f"reload = {quote_list(_reload_command(plan, places, brokers))}",
        )
        if is_registrar
        else "",
        engine=format_engine(
            nodes,
            node_key=f"{KEYS_NAME}/{NODE_NAME}",
            snapshot_interval_blocks=plan.snapshot_interval_blocks,
        ),
    )
    shards = sorted(made.genesis.shards, key=lambda shard: shard != place.shard)
    return text + "".join(
        format_shard(
            name=shard,
            keys=[f"{KEYS_NAME}/{DELEGATE_NAME}"] if shard == place.shard else [],
            validation=VALIDATION_NAME if shard == place.shard else None,
            devices=DEVICES_NAME.format(shard=shard) if is_registrar else None,
        )
        for shard in shards
    )


def _reload_command(
    plan: MachinesPlan, places: Sequence[GatewayPlace], brokers: Sequence[tuple[str, int]]
) -> list[str]:
    """What makes brokers on this machine read their lists again; nothing for those elsewhere."""
    if not _is_one_machine(places, brokers):
        return []
    pids = [
        (plan.network.folder / f"broker-{index}" / PID_NAME).absolute()
        for index in range(len(brokers))
    ]
    # A broker that is down reads the list when it starts; the others are told all the same.
    return [
        "sh",
        "-c",
        "; ".join(f"kill -HUP $(cat {shlex.quote(str(pid))}) || true" for pid in pids),
    ]


def _is_one_machine(places: Sequence[GatewayPlace], brokers: Sequence[tuple[str, int]]) -> bool:
    return len({*(place.host for place in places), *(host for host, _ in brokers)}) == 1
