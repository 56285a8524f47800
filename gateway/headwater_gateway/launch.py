"""From a configuration to a running gateway, and to its clean end."""

import asyncio
import contextlib
import ipaddress
import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headwater_gateway.comet.host import CometHost
from headwater_gateway.comet.routes import CometRoutes
from headwater_gateway.comet.sync import SyncPeers
from headwater_gateway.config import BrokerConfig, GatewayConfig, ShardConfig
from headwater_gateway.journal import Journal, is_complete
from headwater_gateway.keyfile import load_key
from headwater_gateway.office import (
    OfficeWatch,
    find_strangers,
    require_known,
    require_power,
)
from headwater_gateway.registrar.service import RegistrarService, open_registrar
from headwater_gateway.registrar.setup import make_broker_tls
from headwater_gateway.shell.broker import embedded_broker
from headwater_gateway.shell.chain import ChainHost, Host, StepResult
from headwater_gateway.shell.exchange import ExchangeSetup
from headwater_gateway.shell.mqtt import ignore_lost_connections, parse_broker_url
from headwater_gateway.shell.service import GatewayService, HostedShard, ServiceSetup
from headwater_gateway.worker import ValidationData
from headwater_models.dataset import Dataset, load_dataset
from headwater_models.program import Program
from headwater_protocol.chain.genesis import (
    MAX_GENESIS_BYTES,
    Genesis,
    decode_genesis,
    genesis_network,
)
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import DirectVerifier, SecretKey
from headwater_protocol.errors import ConfigError, HeadwaterError, InvalidMessage, OutOfBounds
from headwater_protocol.identifiers import MAIN_CHAIN, AccountId, ChainId, ValidatorId
from headwater_protocol.messages.chunk import MAX_BLOB_BYTES
from headwater_shard.layout import DataFolder
from headwater_shard.state.state import State
from headwater_shard.tools.reading import read_chain

logger = logging.getLogger("headwater.gateway")


def prepare(config: GatewayConfig, *, broker_url: str) -> ServiceSetup:
    """Read and check all that `config` names.

    Raises:
        ConfigError: Names the key and the fix.
    """
    genesis = load_genesis(config)
    blobs = [_read_blob(path) for path in config.blobs]
    program = _find_program(genesis, blobs)
    keys: dict[ChainId, tuple[SecretKey, ...]] = {}
    for shard in config.shards:
        if shard.shard not in genesis.shards:
            raise ConfigError(
                f"{shard.key}.name",
                f"the genesis has no shard {shard.shard!r}",
                fix=f"use one of {', '.join(genesis.shards)}",
            )
        keys[shard.shard] = tuple(
            load_key(path, key=f"{shard.key}.keys") for path in shard.delegate_keys
        )
    every_key = [key for shard in sorted(keys) for key in keys[shard]]
    states = _read_states(config, genesis)
    named_keys = {f"{shard.key}.keys": keys[shard.shard] for shard in config.shards}
    if config.comet is None:
        require_known(genesis, states[MAIN_CHAIN], named_keys)
        require_power(genesis, states, every_key, name="shards")
    else:
        # The ledger that says who bonded may have to be fetched first, and to follow needs no bond.
        for _, validator in find_strangers(genesis, states[MAIN_CHAIN], named_keys):
            logger.info(
                'event=follows validator=%s detail="no candidate by the ledger that is here;'
                ' headwater-shard tx bond makes it one"',
                validator.hex(),
            )
    return ServiceSetup(
        genesis=genesis,
        folder=config.folder,
        shards=[
            HostedShard(
                shard=shard.shard,
                keys=keys[shard.shard],
                validation=load_validation(
                    shard, keys[shard.shard], program, max_bytes=config.max_data_bytes
                ),
                devices=shard.devices,
            )
            for shard in config.shards
        ],
        broker_url=broker_url,
        blobs=blobs,
        registrar=_load_registrar(config, genesis),
        exchange=ExchangeSetup(
            web=config.web,
            peers=config.peers,
            authority=config.tls_authority,
            storage=config.storage,
            routes=[]
            if config.comet is None
            else [
                CometRoutes(
                    DataFolder(config.folder),
                    (MAIN_CHAIN, *(shard.shard for shard in config.shards)),
                ).table()
            ],
        ),
    )


def _read_states(config: GatewayConfig, genesis: Genesis) -> dict[ChainId, State]:
    """The last states of the chains that are hosted here; those of the genesis at first."""
    folder = DataFolder(config.folder)
    chains = (MAIN_CHAIN, *(shard.shard for shard in config.shards))
    return {chain: read_chain(folder, genesis, chain).state for chain in chains}


def load_genesis(config: GatewayConfig) -> Genesis:
    """The genesis that `config` names and pins.

    Raises:
        ConfigError: If it cannot be read, is none, or is another network's.
    """
    path, fix = config.genesis, "get the genesis file from the network's founder"
    try:
        with path.open("rb") as file:
            genesis = decode_genesis(file.read(MAX_GENESIS_BYTES + 1))
    except OSError as error:
        raise ConfigError("genesis", f"{path}: {error.strerror}", fix=fix) from error
    except InvalidMessage as error:
        raise ConfigError("genesis", f"{path}: {error}", fix=fix) from error
    network = genesis_network(genesis)
    if network != config.network:
        raise ConfigError(
            "network",
            f"{path} is network {network.hex()[:16]}…, not {config.network.hex()[:16]}…",
            fix="name the genesis of this network, or start over in a new folder",
        )
    return genesis


def load_validation(
    shard: ShardConfig, keys: Sequence[SecretKey], program: Program | None, *, max_bytes: int
) -> dict[ValidatorId, ValidationData]:
    """Each delegate's validation data.

    Args:
        shard: Names one path for all delegates, or one for each.
        keys: Of the delegates, in the order of the configuration.
        program: What the data have to fit; None checks nothing.
        max_bytes: Limit of each path's examples in memory.

    Raises:
        ConfigError: If the data cannot be read, are too few or do not fit the program.
    """
    key = f"{shard.key}.validation"
    parts: list[Dataset] = []
    for path in shard.validation:
        dataset = load_dataset(path, max_bytes=max_bytes, key=key)
        if len(shard.validation) == len(keys):
            parts.append(dataset)
        else:
            parts.extend(deal(dataset, len(keys), key=key))
    try:
        return {
            owner.validator: ValidationData(
                features=part.features if program is None else part.reshaped(program.input_shape),
                labels=_require_labels(part, program),
            )
            for owner, part in zip(keys, parts, strict=True)
        }
    except InvalidMessage as error:
        raise ConfigError(key, str(error), fix="give examples that fit the program") from error


def deal(dataset: Dataset, num_parts: int, *, key: str) -> list[Dataset]:
    """Deal examples out in turn, class by class, so that every part has about the same mix.

    Raises:
        ConfigError: If there are fewer examples than parts; `key` names them.
    """
    if dataset.num_examples < num_parts:
        raise ConfigError(
            key,
            f"{dataset.num_examples} examples for {num_parts} delegates",
            fix="give each of them 20 or more",
        )
    order = np.argsort(dataset.labels, kind="stable")
    return [
        Dataset(
            features=dataset.features[order[part::num_parts]],
            labels=dataset.labels[order[part::num_parts]],
        )
        for part in range(num_parts)
    ]


def run_gateway(config: GatewayConfig, *, until_complete: bool) -> None:
    """Serve until SIGTERM or SIGINT; all stores are closed when this returns.

    Args:
        config: What to serve.
        until_complete: Return too once all rounds are closed, settled and merged.

    Raises:
        ConfigError: If a key names what cannot be used.
        StorageError: If a store is or becomes unusable.
        ReplicaHalted: If a replica disagrees with what was certified.
    """
    with _open_brokers(config) as urls:
        # A broker that is no URL is found out here, before anything is opened.
        addresses = [parse_broker_url(url) for url in urls]
        setup = replace(
            prepare(config, broker_url=urls[0]),
            other_broker_urls=urls[1:],
            broker_tls=make_broker_tls(config.tls),
            intake_group=config.intake_group,
        )
        names = ",".join(f"{address.host}:{address.port}" for address in addresses)
        with ExitStack() as stack:
            registrar = None
            if config.enrolment is not None:
                registrar = stack.enter_context(
                    open_registrar(config, config.enrolment, setup.genesis, urls)
                )
            asyncio.run(
                _serve(
                    setup,
                    names,
                    registrar,
                    until_complete=until_complete,
                    make_host=choose_host(config),
                    # Among nodes of others no gateway makes a quorum alone, nor has to.
                    watches_power=config.comet is None,
                )
            )


def choose_host(config: GatewayConfig) -> Callable[..., Host]:
    """What opens a chain on the engine that `config` names."""
    if config.comet is None:
        return ChainHost
    peers = SyncPeers(
        urls=tuple(sorted(set(config.peers.values()))), authority=config.tls_authority
    )
    return partial(CometHost, config=config.comet, peers=peers)


async def _serve(
    setup: ServiceSetup,
    broker: str,
    registrar: RegistrarService | None,
    *,
    until_complete: bool,
    make_host: Callable[..., Host],
    watches_power: bool,
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(ignore_lost_connections)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def on_finalized(chain: ChainId, result: StepResult) -> None:
        if result.tip is None:
            return
        for line in journal.note(chain, result.tip.state):
            logger.info(line)
        if chain == MAIN_CHAIN and watches_power:
            for line in office.note(result.tip.state):
                logger.warning(line)
        if until_complete and chain == MAIN_CHAIN and is_complete(result.tip.state):
            stop.set()

    service = GatewayService(
        setup, verifier=DirectVerifier(), on_finalized=on_finalized, make_host=make_host
    )
    states = {chain: host.state for chain, host in service.hosts.items()}
    journal = Journal(states, service.metrics)
    office = OfficeWatch(
        states[MAIN_CHAIN],
        shards=[shard.shard for shard in setup.shards],
        keys=[key for shard in setup.shards for key in shard.keys],
    )
    heights = " ".join(f"{chain}={service.hosts[chain].height}" for chain in sorted(states))
    network = genesis_network(setup.genesis).hex()
    logger.info("event=started network=%s broker=%s %s", network[:16], broker, heights)
    if until_complete and is_complete(states[MAIN_CHAIN]):
        stop.set()
    if registrar is not None:
        registrar.attach(service, asyncio.get_running_loop())
    running = asyncio.create_task(_run_all(service, registrar), name="service")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        running.cancel()
        await asyncio.gather(running, stopping, return_exceptions=True)
    if not running.cancelled() and (error := running.exception()) is not None:
        raise _first_cause(error)
    logger.info("event=stopped")


async def _run_all(service: GatewayService, registrar: RegistrarService | None) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(service.run(), name="gateway")
        if registrar is not None:
            group.create_task(registrar.run(service.machine), name="registrar")


def _first_cause(error: BaseException) -> BaseException:
    """What went wrong first, out of a group of tasks that fell with it."""
    while isinstance(error, BaseExceptionGroup):
        ours = next((e for e in error.exceptions if isinstance(e, HeadwaterError)), None)
        error = ours or error.exceptions[0]
    return error


@contextlib.contextmanager
def _open_brokers(config: GatewayConfig) -> Iterator[tuple[str, ...]]:
    if config.brokers:
        yield config.brokers
        return
    with _open_broker(config.broker) as url:
        yield (url,)


@contextlib.contextmanager
def _open_broker(config: BrokerConfig) -> Iterator[str]:
    if config.url is not None:
        yield config.url
        return
    if not _is_loopback(config.host):
        logger.warning(
            "event=open_broker host=%s detail=%s",
            config.host,
            '"the embedded broker asks nobody for a password; set broker.url to one of your own"',
        )
    with embedded_broker(config.host, config.port) as url:
        yield url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_blob(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BLOB_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            "blobs", f"{path}: {error.strerror}", fix="put the file there, or drop it from the list"
        ) from error
    if not 0 < len(data) <= MAX_BLOB_BYTES:
        raise ConfigError(
            "blobs", f"{path} has {len(data)} bytes", fix=f"a blob has 1 to {MAX_BLOB_BYTES}"
        )
    return data


def _find_program(genesis: Genesis, blobs: Sequence[bytes]) -> Program | None:
    """The task's program, where it is among `blobs`; else it is in the data folder already."""
    for data in blobs:
        if blob_digest(data) == genesis.task.program:
            try:
                return Program(data)
            except InvalidMessage as error:
                raise ConfigError(
                    "blobs", f"the task's program: {error}", fix="see headwater-model check"
                ) from error
    return None


def _require_labels(part: Dataset, program: Program | None) -> NDArray[np.int32]:
    highest = int(part.labels.max())
    if program is not None and highest >= program.num_classes:
        raise OutOfBounds(f"label {highest} for a program of {program.num_classes} classes")
    return part.labels


def _load_registrar(config: GatewayConfig, genesis: Genesis) -> SecretKey | None:
    if config.registrar_key is None:
        return None
    registrar = load_key(config.registrar_key, key="registrar_key")
    if AccountId(registrar.account) not in genesis.registrars:
        raise ConfigError(
            "registrar_key",
            f"{config.registrar_key} is no registrar's of this network",
            fix="name the key that init made, or leave it out",
        )
    return registrar
