"""A gateway's side of the blobs: its store, its peers, and the HTTP service in front of both."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp.web import AbstractRouteDef

from headwater_gateway.machine.effects import (
    FetchBlob,
    ShareStatement,
    TakeIn,
    TidyBlobs,
    Waiting,
)
from headwater_gateway.machine.fetches import list_needs
from headwater_gateway.machine.metrics import Metrics
from headwater_gateway.machine.speaker import pick_speaker
from headwater_gateway.web.access import States
from headwater_gateway.web.blobs import BlobRoutes, WebCounters
from headwater_gateway.web.config import StorageConfig, WebConfig
from headwater_gateway.web.fetcher import BlobFetcher
from headwater_gateway.web.peers import Peers
from headwater_gateway.web.replicator import Replicator
from headwater_gateway.web.server import WebServer
from headwater_gateway.web.shelf import Shelf
from headwater_gateway.web.statements import StatementRoutes, share_statement
from headwater_gateway.web.status import StatusRoutes, StatusSource
from headwater_protocol.chain.evidence import WithheldPayload
from headwater_protocol.crypto.signing import SecretKey, Verifier
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Digest, Network, ValidatorId
from headwater_protocol.reasons import ReasonCode
from headwater_shard.blobs import BlobStore
from headwater_shard.engine.cometbft.shell.engine import CometStatus
from headwater_shard.mainchain.records import MAIN, MAIN_KEY

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeSetup:
    """What the operator said about HTTP, other gateways, and space."""

    web: WebConfig | None = None
    """None serves nobody."""
    peers: Mapping[ValidatorId, str] = field(default_factory=dict)
    """Where the gateways of other delegates are."""
    authority: Path | None = None
    """Who signed their certificates; None trusts the system's authorities."""
    storage: StorageConfig = field(default_factory=StorageConfig)
    routes: Sequence[Iterable[AbstractRouteDef]] = ()
    """Of other owners, for the same listener."""


class BlobExchange:
    """Everything that happens to blobs outside of the machine and the worker."""

    def __init__(
        self,
        setup: ExchangeSetup,
        *,
        store: BlobStore,
        network: Network,
        keys: Sequence[SecretKey],
        states: Callable[[], States],
        heights: Callable[[], Mapping[ChainId, int]],
        brokers: Callable[[], Mapping[str, bool]],
        engines: Callable[[], Mapping[ChainId, CometStatus]],
        metrics: Metrics,
        verifier: Verifier,
        now_ms: Callable[[], int],
        on_statement: Callable[[WithheldPayload], None],
    ) -> None:
        """Set up; `serve` listens.

        Args:
            setup: The operator's.
            store: The blobs of this gateway.
            network: Part of what is signed.
            keys: Of the delegates hosted here.
            states: The last finalized states.
            heights: Of the chains.
            brokers: Whether each broker is there, by its address.
            engines: The nodes of CometBFT.
            metrics: Shown.
            verifier: Checks signatures of requests.
            now_ms: The clock.
            on_statement: Told what other gateways' delegates say.

        Raises:
            ConfigError: If a TLS file cannot be used.
        """
        self.shelf = Shelf(store, setup.storage, now_ms=now_ms)
        self._states = states
        self._keys = tuple(keys)
        own = frozenset(key.validator for key in keys)
        self.peers = Peers(
            urls=setup.peers,
            own=own,
            network=network,
            speaker=self._speaker,
            now_ms=now_ms,
            authority=setup.authority,
        )
        self.fetcher = BlobFetcher(self.peers, has=self.shelf.__contains__, put=self.shelf.put)
        self.replicator = Replicator(self.peers, own=own, get=self.shelf.get)
        self._web_counters = WebCounters()
        self._server: WebServer | None = None
        self.url: str | None = None
        """Where the service listens, once it does."""
        if setup.web is not None:
            blobs = BlobRoutes(
                network=network,
                shelf=self.shelf,
                states=states,
                verifier=verifier,
                now_ms=now_ms,
                counters=self._web_counters,
            )
            status = StatusRoutes(
                StatusSource(
                    network=network,
                    states=states,
                    heights=heights,
                    metrics=metrics,
                    counters=self.count,
                    brokers=brokers,
                    engines=engines,
                )
            )
            self._server = WebServer(
                host=setup.web.host,
                port=setup.web.port,
                tls=setup.web.tls,
                routes=[
                    blobs.table(),
                    status.table(),
                    StatementRoutes(on_statement).table(),
                    *setup.routes,
                ],
            )

    async def serve(self) -> None:
        """Listen until cancelled.

        Raises:
            ConfigError: If it cannot listen there.
        """
        try:
            if self._server is not None:
                self.url = await self._server.start()
                logger.info("event=web_started url=%s", self.url)
            await asyncio.Event().wait()
        finally:
            if self._server is not None:
                await self._server.stop()
            await self.fetcher.close()
            await self.peers.close()

    def missing(self, work: Waiting) -> tuple[Digest, ...]:
        """What `work` needs and the store lacks."""
        return tuple(blob for blob in list_needs(work) if blob not in self.shelf)

    async def fetch(self, effect: FetchBlob) -> bool:
        """Have a blob here; whether it is.

        Raises:
            StorageError: If the disk refuses.
        """
        return await self.fetcher.fetch(effect.blob, effect.holders)

    async def replicate(
        self, work: TakeIn, reasons: tuple[ReasonCode, ...]
    ) -> tuple[ReasonCode, ...]:
        """Store what passed with its holders; what too few of them took is refused as busy.

        Raises:
            StorageError: If a payload cannot be read back.
        """
        good = [
            check.payload
            for check, reason in zip(work.updates, reasons, strict=True)
            if reason is ReasonCode.OK
        ]
        if work.committee is None or not good:
            return reasons
        kept = await self.replicator.replicate(tuple(dict.fromkeys(good)), work.committee)
        return tuple(
            ReasonCode.BUSY if reason is ReasonCode.OK and not kept[check.payload] else reason
            for check, reason in zip(work.updates, reasons, strict=True)
        )

    async def share(self, effect: ShareStatement) -> None:
        """Tell the other gateways; who is away is told again later."""
        await share_statement(self.peers, effect.evidence)

    def tidy(self, effect: TidyBlobs) -> None:
        """Drop what is settled, if there is too much; to be called on a thread.

        Raises:
            StorageError: If the disk refuses.
        """
        freed = self.shelf.tidy(effect.needed)
        if freed:
            logger.info("event=evicted bytes=%d left=%d", freed, self.shelf.store.total_bytes)

    def count(self) -> dict[str, int]:
        """All counters, by metric name."""
        fetched, put = self.fetcher.counters, self.replicator.counters
        served = self._web_counters
        return {
            "headwater_blobs": len(self.shelf.store),
            "headwater_blob_bytes": self.shelf.store.total_bytes,
            "headwater_blob_evicted_bytes_total": self.shelf.evicted_bytes,
            "headwater_blobs_served_total": served.served,
            "headwater_blob_bytes_served_total": served.served_bytes,
            "headwater_blobs_taken_total": served.taken,
            "headwater_blob_bytes_taken_total": served.taken_bytes,
            "headwater_blob_requests_refused_total": served.refused,
            "headwater_blobs_fetched_total": fetched.fetched,
            "headwater_blob_bytes_fetched_total": fetched.fetched_bytes,
            "headwater_blob_fetches_failed_total": fetched.failed,
            "headwater_blob_wrong_answers_total": fetched.bad_peers,
            "headwater_blob_copies_stored_total": put.stored,
            "headwater_blob_copies_refused_total": put.refused,
            "headwater_blobs_short_of_copies_total": put.short,
            "headwater_blobs_without_a_copy_total": put.lonely,
            "headwater_peers": self.peers.num_gateways,
        }

    def _speaker(self) -> SecretKey:
        main = self._states()[MAIN_CHAIN].get(MAIN, MAIN_KEY)
        return pick_speaker(self._keys, None if main is None else main.committee)
