"""The gateway's process: performs the machine's effects and brings their results back."""

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from headwater_gateway.comet.host import CometHost
from headwater_gateway.machine.effects import (
    CheckScores,
    ClearBlob,
    ComputeMerge,
    ComputeRoundModel,
    Effect,
    FetchBlob,
    Publish,
    PublishBlob,
    Refutation,
    ScoreBatch,
    Scored,
    ShareStatement,
    Submit,
    TakeIn,
    TidyBlobs,
    Work,
)
from headwater_gateway.machine.gateway import Desk, GatewayMachine
from headwater_gateway.machine.metrics import Metrics
from headwater_gateway.shell.brokers import Brokers
from headwater_gateway.shell.chain import ChainHost, ChainRunner, Host, StepResult
from headwater_gateway.shell.exchange import BlobExchange, ExchangeSetup
from headwater_gateway.shell.inbox import Inbox
from headwater_gateway.worker import (
    Scorer,
    ValidationData,
    check_scores,
    check_updates,
    compute_merge,
    compute_model,
)
from headwater_protocol.chain.evidence import WithheldPayload
from headwater_protocol.chain.genesis import Genesis, encode_genesis, genesis_network
from headwater_protocol.crypto.signing import SecretKey, Verifier, require_libsodium
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import InvalidMessage, StorageError
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    ChainId,
    DeviceId,
    Digest,
    ValidatorId,
)
from headwater_protocol.messages.chunk import count_chunks, split_blob
from headwater_protocol.messages.topics import Topics, share_filter
from headwater_protocol.reasons import ReasonCode
from headwater_shard.blobs import BlobStore
from headwater_shard.layout import DataFolder

logger = logging.getLogger(__name__)

INBOX_S: Final = 0.5
"""Between two looks at the folder of transactions that people bring."""

MAX_REPORTED: Final = 1_000
"""Duties whose failure is remembered as told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostedShard:
    """A shard that this process serves."""

    shard: ChainId
    keys: Sequence[SecretKey]
    """Of its delegates here; with the embedded engine, of all of them."""
    validation: Mapping[ValidatorId, ValidationData] = field(default_factory=dict)
    devices: Sequence[DeviceId] = ()
    """To enrol, with a registrar's key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSetup:
    """All that a gateway process is started with."""

    genesis: Genesis
    folder: Path
    """The data folder: ledgers and blobs."""
    shards: Sequence[HostedShard]
    broker_url: str
    blobs: Sequence[bytes]
    """To have from the start: the program and the initial model."""
    registrar: SecretKey | None = None
    other_broker_urls: Sequence[str] = ()
    """Served at the same time as `broker_url`."""
    broker_tls: ssl.SSLContext | None = None
    """For `mqtts://`; None takes the system's authorities."""
    intake_group: str | None = None
    """Each broker deals a shard's updates out among the gateways of one group; None takes all."""
    transactions: Sequence[tuple[ChainId, bytes]] = ()
    """Of accounts whose keys are elsewhere, to submit at the start; what the ledger has is refused
    and does no harm."""
    exchange: ExchangeSetup = field(default_factory=ExchangeSetup)
    """How blobs get to other gateways and from there."""


class GatewayService:
    """One gateway process."""

    def __init__(
        self,
        setup: ServiceSetup,
        *,
        verifier: Verifier,
        on_finalized: Callable[[ChainId, StepResult], None] | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        make_host: Callable[..., Host] = ChainHost,
    ) -> None:
        """Open stores and go on from what they hold.

        Args:
            setup: Keys, folders, broker.
            verifier: Checks signatures; may remember past answers.
            on_finalized: Told of every step that finalized blocks.
            now_ms: The clock.
            make_host: Opens a chain, with the arguments of `ChainHost`; another engine passes its
                own, and so does a simulation of traitors.

        Raises:
            StorageError: If a store is unusable or of another network.
            ConfigError: If libsodium is missing or the genesis lacks a shard.
        """
        require_libsodium()
        self._setup = setup
        self._now_ms = now_ms
        self._verifier = verifier
        self._listener = on_finalized
        self._make_host = make_host
        self.metrics = Metrics()
        genesis = setup.genesis
        self._folder = DataFolder(setup.folder)
        setup.folder.mkdir(parents=True, exist_ok=True)
        all_keys = [key for shard in setup.shards for key in shard.keys]
        # The ledgers' locks keep a second process out, so they come before anything is written.
        self._hosts: dict[ChainId, Host] = {}
        try:
            self._hosts[MAIN_CHAIN] = self._open(MAIN_CHAIN, all_keys)
            for shard in setup.shards:
                self._hosts[shard.shard] = self._open(shard.shard, all_keys)
            _write_once(self._folder.genesis, encode_genesis(genesis))
            self.blobs = BlobStore(self._folder.blobs)
            self.blobs.put_all(list(setup.blobs))
        except BaseException:
            self._close_hosts()
            raise
        self.machine = GatewayMachine(
            genesis=genesis,
            desks=[
                Desk(shard=shard.shard, keys=shard.keys, devices=shard.devices)
                for shard in setup.shards
            ],
            states={chain: host.state for chain, host in self._hosts.items()},
            metrics=self.metrics,
            registrar=setup.registrar,
            verifier=verifier,
            keeps_blobs=True,
        )
        self.exchange = BlobExchange(
            setup.exchange,
            store=self.blobs,
            network=genesis_network(genesis),
            keys=all_keys,
            states=lambda: self.machine.states,
            heights=lambda: {chain: host.height for chain, host in self._hosts.items()},
            brokers=lambda: {} if self._bus is None else self._bus.connections,
            engines=lambda: {
                chain: host.engine.status
                for chain, host in self._hosts.items()
                if isinstance(host, CometHost)
            },
            metrics=self.metrics,
            verifier=verifier,
            now_ms=now_ms,
            on_statement=self._on_statement,
        )
        self.scorer = Scorer(
            blobs=self.blobs,
            data={
                validator: data
                for shard in setup.shards
                for validator, data in shard.validation.items()
            },
        )
        self._runners: dict[ChainId, ChainRunner] = {}
        self._inbox = Inbox(self._folder.inbox)
        self._bus: Brokers | None = None
        self._group: asyncio.TaskGroup | None = None
        self._wake = asyncio.Event()
        self._reported: set[str] = set()
        # Intake must not wait for a reference that is being trained.
        self._intake_pool = ThreadPoolExecutor(1, thread_name_prefix="intake")
        self._work_pool = ThreadPoolExecutor(1, thread_name_prefix="work")

    @property
    def hosts(self) -> Mapping[ChainId, Host]:
        """The chains."""
        return self._hosts

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            StorageError: If a store becomes unusable.
            ReplicaHalted: If a replica disagrees with what was certified.
        """
        genesis = self._setup.genesis
        network = genesis_network(genesis)
        filters = [Topics(network, shard.shard).updates for shard in self._setup.shards]
        if self._setup.intake_group is not None:
            filters = [share_filter(self._setup.intake_group, entry) for entry in filters]
        # Every gateway hears every status: which of them declares a class is the ledger's business.
        filters += [Topics(network, shard.shard).statuses for shard in self._setup.shards]
        self._bus = Brokers(
            urls=(self._setup.broker_url, *self._setup.other_broker_urls),
            client_id=f"hw-gateway-{self._setup.shards[0].keys[0].public_key.hex()[:12]}",
            filters=filters,
            on_message=self._on_message,
            on_connected=self._on_connected,
            tls=self._setup.broker_tls,
        )
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for chain, host in self._hosts.items():
                    runner = ChainRunner(
                        host,
                        on_step=partial(self._on_step, chain),
                        now_ms=self._now_ms,
                    )
                    self._runners[chain] = runner
                tips = {chain: tip for chain, host in self._hosts.items() if (tip := host.tip)}
                self.machine.start(tips, self._now_ms(), updates=self._hosts[MAIN_CHAIN].updates)
                self._perform()
                for index, (chain, transaction) in enumerate(self._setup.transactions):
                    submit = Submit(chain=chain, transaction=transaction, ticket=f"given/{index}")
                    self._runners[chain].submit(submit)
                for chain in self._runners:
                    group.create_task(self._runners[chain].run(), name=f"chain {chain}")
                group.create_task(self._bus.run(), name="mqtt")
                group.create_task(self.exchange.serve(), name="web")
                group.create_task(self._run_timer(), name="timer")
                group.create_task(self._run_inbox(), name="inbox")
        finally:
            self._intake_pool.shutdown()
            self._work_pool.shutdown(cancel_futures=True)
            self.blobs.close()
            # Each runner has closed its own, unless it was cancelled before it began.
            self._close_hosts()

    async def _run_inbox(self) -> None:
        while True:
            for submit in self._inbox.look(self._hosts):
                if not self._runners[submit.chain].submit(submit):
                    self._inbox.on_submitted(submit.ticket, ReasonCode.BUSY)
            await asyncio.sleep(INBOX_S)

    async def drain(self) -> None:
        """Wait until everything queued for the broker is out."""
        if self._bus is not None:
            await self._bus.drain()

    def publish(self, publish: Publish) -> None:
        """Queue a message for the broker."""
        if self._bus is not None:
            self._bus.publish(publish)

    def enrol(self, shard: ChainId, device: DeviceId, *, weight: int) -> None:
        """Put an accepted device on its shard's ledger; before `run` too."""
        self.machine.enrol(shard, device, weight=weight, now_ms=self._now_ms())
        self._perform()

    def revoke(self, shard: ChainId, device: DeviceId) -> None:
        """Leave a device out of its shard from now on; before `run` too."""
        self.machine.revoke(shard, device, self._now_ms())
        self._perform()

    def _open(self, chain: ChainId, keys: Sequence[SecretKey]) -> Host:
        path = self._folder.ledger(chain)
        path.parent.mkdir(parents=True, exist_ok=True)
        return self._make_host(
            genesis=self._setup.genesis,
            chain=chain,
            keys=keys,
            path=path,
            verifier=self._verifier,
        )

    def _close_hosts(self) -> None:
        for chain in sorted(self._hosts):
            self._hosts[chain].close()

    def _on_message(self, topic: str, payload: bytes) -> None:
        self.machine.receive(topic, payload, self._now_ms())
        self._perform()

    def _on_statement(self, said: WithheldPayload) -> None:
        self.machine.on_statement(said, self._now_ms())
        self._perform()

    def _on_connected(self) -> None:
        self.machine.on_connected(self._now_ms())
        self._perform()

    def _on_step(self, chain: ChainId, result: StepResult) -> None:
        now_ms = self._now_ms()
        for submit, reason in result.reasons:
            self.machine.on_submitted(submit, reason, now_ms)
            self._inbox.on_submitted(submit.ticket, reason)
        for equivocation in result.equivocations:
            self.machine.on_equivocation(equivocation, now_ms)
        self.machine.on_epochs(result.updates)
        if result.tip is not None:
            self.machine.on_transactions(result.tip, result.transactions)
            self.machine.on_finalized(chain, result.tip, now_ms)
        self._perform()
        if result.tip is not None and self._listener is not None:
            self._listener(chain, result)

    def _perform(self) -> None:
        for effect in self.machine.effects():
            self._perform_one(effect)
        self._wake.set()

    def _perform_one(self, effect: Effect) -> None:
        if isinstance(effect, Publish):
            self.publish(effect)
        elif isinstance(effect, Submit):
            if not self._runners[effect.chain].submit(effect):
                self.machine.on_submitted(effect, ReasonCode.BUSY, self._now_ms())
        elif isinstance(effect, PublishBlob):
            self._publish_blob(effect)
        elif isinstance(effect, FetchBlob):
            self._spawn(self._fetch(effect))
        elif isinstance(effect, ShareStatement):
            self._spawn(self.exchange.share(effect))
        elif isinstance(effect, TidyBlobs):
            self._spawn(asyncio.to_thread(self.exchange.tidy, effect))
        elif isinstance(effect, ClearBlob):
            topics = Topics(genesis_network(self._setup.genesis), effect.shard)
            for index in range(count_chunks(effect.blob_bytes)):
                self.publish(
                    Publish(topic=topics.chunk(effect.blob, index), payload=b"", retain=True)
                )
        else:
            self._spawn(self._work(effect))

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        if self._group is None:
            work.close()
        else:
            self._group.create_task(work)

    async def _fetch(self, effect: FetchBlob) -> None:
        is_here = await self.exchange.fetch(effect)
        self.machine.on_fetched(effect.blob, self._now_ms(), is_here=is_here)
        self._perform()

    def _publish_blob(self, effect: PublishBlob) -> None:
        topics = Topics(genesis_network(self._setup.genesis), effect.shard)
        try:
            data = self.blobs.get(effect.blob)
        except InvalidMessage:
            logger.error(
                "event=blob_missing blob=%s detail=devices cannot train", effect.blob.hex()
            )
            self.machine.on_missing(effect, (effect.blob,), self._now_ms())
            return
        for chunk in split_blob(data):
            self.publish(
                Publish(
                    topic=topics.chunk(effect.blob, chunk.index),
                    payload=encode_record(chunk),
                    retain=True,
                )
            )

    async def _work(self, work: Work) -> None:
        loop = asyncio.get_running_loop()
        if not isinstance(work, TakeIn) and (missing := self.exchange.missing(work)):
            self.machine.on_missing(work, missing, self._now_ms())
        elif isinstance(work, TakeIn):
            reasons = await loop.run_in_executor(self._intake_pool, self._check, work)
            reasons = await self.exchange.replicate(work, reasons)
            self.machine.on_taken_in(work, reasons, self._now_ms())
        elif isinstance(work, ScoreBatch):
            scored = await loop.run_in_executor(self._work_pool, self._score, work)
            self.machine.on_scored(work, scored, self._now_ms())
        elif isinstance(work, CheckScores):
            refuted = await loop.run_in_executor(self._work_pool, self._check_scores, work)
            self.machine.on_checked(work, refuted, self._now_ms())
        elif isinstance(work, ComputeRoundModel):
            model = await loop.run_in_executor(self._work_pool, self._compute_model, work)
            self.machine.on_round_model(work, model, self._now_ms())
        else:
            model = await loop.run_in_executor(self._work_pool, self._compute_merge, work)
            self.machine.on_merge_model(work, model, self._now_ms())
        self._perform()

    def _check(self, work: TakeIn) -> tuple[ReasonCode, ...]:
        return check_updates(work, verifier=self._verifier, blobs=self.blobs)

    def _check_scores(self, work: CheckScores) -> Refutation | None:
        return check_scores(work, blobs=self.blobs)

    def _score(self, work: ScoreBatch) -> Scored | None:
        try:
            return self.scorer.score(work)
        except InvalidMessage as error:
            self._report(work.ticket, error)
            return None

    def _compute_model(self, work: ComputeRoundModel) -> Digest | None:
        try:
            return compute_model(work, blobs=self.blobs)
        except InvalidMessage as error:
            self._report(work.ticket, error)
            return None

    def _compute_merge(self, work: ComputeMerge) -> Digest | None:
        try:
            return compute_merge(work, blobs=self.blobs)
        except InvalidMessage as error:
            self._report(work.ticket, error)
            return None

    def _report(self, ticket: str, error: InvalidMessage) -> None:
        """Log why a duty cannot be done; it is tried again and again, but told once."""
        if ticket not in self._reported:
            if len(self._reported) >= MAX_REPORTED:
                self._reported.clear()
            self._reported.add(ticket)
            logger.error("event=duty_failed duty=%s detail=%s", ticket, error)

    async def _run_timer(self) -> None:
        """Wake the machine when its own timer is due."""
        while True:
            self._wake.clear()
            at = self.machine.next_timer()
            timeout_s = None if at is None else max(0, at - self._now_ms()) / 1_000
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                self.machine.on_timer(self._now_ms())
                self._perform()


def _write_once(path: Path, data: bytes) -> None:
    """Write a file that never changes, whole or not at all.

    Raises:
        StorageError: If it holds something else, or cannot be written.
    """
    try:
        if path.exists():
            if path.read_bytes() != data:
                raise StorageError(f"{path}: is another network's; give another folder")
            return
        draft = path.with_name(path.name + ".new")
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: {error}; check the disk and its permissions") from error
