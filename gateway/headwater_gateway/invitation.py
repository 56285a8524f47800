"""A folder for one more gateway of a network on several machines, written by the registrar's.

The newcomer gets a delegate's key, a node's key, a certificate and a configuration that names all
gateways that this one knows, so it follows every chain as soon as it runs. It votes once it has
bonded stake and is elected. The others reach its blobs once their `[peers]` name it, and it reaches
them without.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headwater_gateway.comet.config import CometConfig, CometNodeConfig, format_engine
from headwater_gateway.config import CONFIG_NAME, EnrolmentConfig, GatewayConfig, format_shard
from headwater_gateway.founding import DATA_NAME, GENESIS_NAME, KEYS_NAME
from headwater_gateway.gateway_folders import (
    DELEGATE_NAME,
    INTAKE_GROUP,
    MAX_PORT,
    NODE_NAME,
    TEMPLATE,
    VALIDATION_NAME,
    pick_listen_host,
    require_host,
)
from headwater_gateway.keyfile import create_key, load_key
from headwater_gateway.launch import load_genesis
from headwater_gateway.registrar.authority import read_first_host
from headwater_gateway.registrar.files import PUBLIC_MODE, read_file, write_whole
from headwater_gateway.registrar.mosquitto import format_gateway_access
from headwater_gateway.registrar.service import load_authority
from headwater_gateway.registrar.setup import (
    MAX_PEM_FILE_BYTES,
    TLS_NAME,
    bracketed,
    issue_files,
)
from headwater_gateway.toml_table import quote, quote_list
from headwater_gateway.web.config import WebConfig
from headwater_protocol.crypto.signing import SEED_BYTES
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import ValidatorId
from headwater_shard.engine.cometbft.shell.home import ensure_node_key

ACCESS_NAME: Final = "broker-access.acl"
"""The newcomer's lines, to be added to the access list of each broker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InvitationPlan:
    """Who is to come."""

    name: str
    """Of the gateway and of its certificate."""
    folder: Path
    """New or empty."""
    host: str
    """By which the others reach it."""
    first_port: int
    """Of its service; those of its nodes follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What was written, and what the other gateways add to their configuration."""

    config: Path
    access: Path
    validator: ValidatorId
    url: str


def write_invitation(
    plan: InvitationPlan, config: GatewayConfig, enrolment: EnrolmentConfig
) -> Invitation:
    """Write the folder of a new gateway.

    Args:
        plan: Who is to come.
        config: Of the registrar's gateway.
        enrolment: Its part about the authority.

    Raises:
        ConfigError: If this gateway is not one of several, or the folder is in use or cannot be
            written.
    """
    comet, web = config.comet, config.web
    if comet is None or comet.node_key is None or web is None:
        raise ConfigError(
            "engine",
            "hosts all delegates in one process",
            fix="found a network on several machines: headwater-gateway init --validators",
        )
    folder, genesis, authority = plan.folder, load_genesis(config), load_authority(enrolment)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError("--out", f"{folder} is not empty", fix="choose a new folder")
    require_host(plan.host, key="--host")
    if plan.first_port + len(comet.nodes) > MAX_PORT:
        raise ConfigError("--first-port", "leaves too few ports", fix="give a smaller one")
    own_host = bracketed(
        read_first_host(
            read_file(enrolment.cert_file, key="enrolment.cert_file", max_bytes=MAX_PEM_FILE_BYTES),
            key="enrolment.cert_file",
        )
    )
    try:
        (folder / KEYS_NAME).mkdir(mode=0o700, parents=True)
        (folder / VALIDATION_NAME).mkdir()
        delegate = create_key(folder / KEYS_NAME / DELEGATE_NAME, os.urandom(SEED_BYTES))
        ensure_node_key(folder / KEYS_NAME / NODE_NAME)
        for source in config.blobs:
            (folder / source.name).write_bytes(source.read_bytes())
        (folder / GENESIS_NAME).write_bytes(config.genesis.read_bytes())
        tls = folder / TLS_NAME
        issue_files(authority, tls, name=plan.name, hosts=(plan.host, "localhost", "127.0.0.1"))
        write_whole(tls / "ca.pem", authority.certificate_pem.encode(), mode=PUBLIC_MODE)
        access = format_gateway_access(genesis, plan.name)
        write_whole(folder / ACCESS_NAME, access.encode(), mode=PUBLIC_MODE)
        text = _format_config(plan, config, comet, web, own_host=own_host)
        (folder / CONFIG_NAME).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError("--out", f"{folder}: {error}", fix="choose a folder of yours") from error
    return Invitation(
        config=folder / CONFIG_NAME,
        access=folder / ACCESS_NAME,
        validator=delegate.validator,
        url=f"https://{bracketed(plan.host)}:{plan.first_port}",
    )


def _format_config(
    plan: InvitationPlan,
    config: GatewayConfig,
    comet: CometConfig,
    web: WebConfig,
    *,
    own_host: str,
) -> str:
    own = load_key(config.shards[0].delegate_keys[0], key="shards[0].keys")
    peers = {own.validator: f"https://{own_host}:{web.port}", **config.peers}
    listen_host = pick_listen_host(plan.host)
    certificate = {
        "certificate": quote(f"{TLS_NAME}/{plan.name}.pem"),
        "key": quote(f"{TLS_NAME}/{plan.name}.key"),
    }
    text = TEMPLATE.substitute(
        certificate,
        name=plan.name,
        count=len(peers) + 1,
        genesis=quote(GENESIS_NAME),
        network=quote(config.network.hex()),
        folder=quote(DATA_NAME),
        blobs=quote_list([path.name for path in config.blobs]),
        registrar="",
        brokers=quote_list(config.brokers),
        group=quote(config.intake_group or INTAKE_GROUP),
        host=quote(listen_host),
        port=plan.first_port,
        peers="\n".join(
            f"{quote(validator.hex())} = {quote(url)}" for validator, url in peers.items()
        ),
        enrolment="",
        engine=format_engine(
            _list_nodes(plan, comet, own_host=own_host, listen_host=listen_host),
            node_key=f"{KEYS_NAME}/{NODE_NAME}",
            snapshot_interval_blocks=comet.snapshot_interval_blocks,
        ),
    )
    return text + "".join(
        format_shard(
            name=shard.shard,
            keys=[f"{KEYS_NAME}/{DELEGATE_NAME}"] if index == 0 else [],
            validation=VALIDATION_NAME if index == 0 else None,
            devices=None,
        )
        for index, shard in enumerate(config.shards)
    )


def _list_nodes(
    plan: InvitationPlan, comet: CometConfig, *, own_host: str, listen_host: str
) -> Sequence[CometNodeConfig]:
    """The newcomer's nodes, whose peers are this gateway's nodes and all that these know."""
    if comet.node_key is None:
        raise ConfigError("cometbft.node_key", "is missing", fix="name the file of the node's key")
    node_id = ensure_node_key(comet.node_key)
    return [
        CometNodeConfig(
            chain=node.chain,
            listen=f"tcp://{bracketed(listen_host)}:{plan.first_port + number}",
            peers=(f"{node_id}@{own_host}:{node.listen.rpartition(':')[2]}", *node.peers),
        )
        for number, node in enumerate(comet.nodes, start=1)
    ]
